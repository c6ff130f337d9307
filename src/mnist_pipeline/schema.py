"""The report as data: what --json prints, and all that a comment accepts from a pull request."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=200)]
Texts = Annotated[list[Text], Field(max_length=100)]
Count = Annotated[int, Field(ge=0, le=10**6)]
Digit = Annotated[int, Field(ge=0, le=9)]
Share = Annotated[float, Field(ge=-1, le=1)]
Real = Annotated[float, Field(ge=-1e15, le=1e15)]
Value = bool | Annotated[int, Field(ge=-(10**15), le=10**15)] | Real | Text | None
Verdict = Literal["improvement", "regression", "no evidence of a difference", "not comparable"]
Reason = Literal["another test set", "a dry run", "no baseline", "no result"]


class Data(BaseModel):
    """Base of the report's parts: frozen, strictly typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Side(Data):
    """One of the two that are compared."""

    name: Text  # as it was asked for
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$")  # for the workspace: what it is based on
    stale: Texts | None  # what in dvc.lock and metrics/ is not of this code; None: not known


class Evidence(Data):
    """The comparison on the test images; accuracies as shares of 1."""

    total: Count
    fixed: Count
    broken: Count
    p_value: float = Field(ge=0, le=1)
    alpha: float = Field(gt=0, lt=1)
    interval: tuple[Share, Share] | None  # of the difference; None where no image differs
    least: Count | None  # of so many that differ, how many one way count; None: however many


class Flip(Data):
    """A test image that one model gets right and the other wrong."""

    index: Count
    label: Digit
    old: Digit
    new: Digit


class Change(Data):
    """A number or text that differs; None: not there."""

    name: Text
    old: Value
    new: Value
    better: bool | None = None  # None: nobody can say


Changes = Annotated[list[Change], Field(max_length=200)] | None


class Stage(Data):
    """A stage that the change affects."""

    name: Text
    changed: Texts  # its inputs that differ from the base's
    after: Texts  # stages before it that are affected


class Spread(Data):
    """What another seed does to accuracy, from metrics/noise.json."""

    runs: Count
    standard_deviation: Share
    reach: float = Field(ge=0, le=100)  # a difference between two seeds stays below: 95 of 100
    pairs: Count
    false_alarms: Count  # pairs that the test tells apart, though only the seed differs


class Report(Data):
    """Everything that the report says."""

    base: Side
    head: Side
    verdict: Verdict
    reason: Reason | None = None  # why not comparable
    detail: Text = ""
    evidence: Evidence | None = None
    spread: Spread | None = None
    fixed: list[Flip] = Field(default=[], max_length=1000)  # the first ones
    broken: list[Flip] = Field(default=[], max_length=1000)
    metrics: Changes = None  # those that differ; None: could not be read, which a note explains
    parameters: Changes = None
    environment: Changes = None
    stages: Annotated[list[Stage], Field(max_length=20)] | None = None
    notes: list[Text] = Field(default=[], max_length=10)  # what could not be looked at, and why
    pictures: list[Text] = Field(default=[], max_length=10)  # files
