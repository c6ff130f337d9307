"""The report as data: what --json prints, and all that a comment takes from a pull request."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mnist_pipeline.files import Record


def plain(value: Any) -> Any:
    """A value as it is; as text if it is a list, say, or a number that JSON cannot hold."""
    number = isinstance(value, int | float) and abs(value) < 1e15  # False for NaN
    return value if number or value is None else str(value)


Count = Annotated[int, Field(ge=0, le=10**6)]
Share = Annotated[float, Field(ge=-1, le=1)]
Value = Annotated[bool | int | float | str | None, BeforeValidator(plain)]
Verdict = Literal["improvement", "regression", "no evidence of a difference", "not comparable"]


class Side(Record):
    """One of the two sides that are compared."""

    name: str  # as it was asked for
    commit: str = Field(pattern=r"^[0-9a-f]{40,64}$")  # for the workspace: what it is based on
    stale: list[str] | None  # what in dvc.lock and metrics/ is not of this code; None: not known


class Evidence(Record):
    """The comparison on the test images; accuracies as shares of 1."""

    total: int = Field(ge=1, le=10**6)
    fixed: Count
    broken: Count
    p_value: float = Field(ge=0, le=1)
    alpha: float = Field(gt=0, lt=1)
    interval: tuple[Share, Share] | None  # of the difference; None where no image differs
    least: Count | None  # how many must go one way to count; None: too few differ


class Flip(Record):
    """A test image that one model gets right and the other wrong."""

    index: Count
    label: str
    old: str
    new: str


class Change(Record):
    """A metric, parameter or fact of the environment that differs; None: not there."""

    file: str
    name: str
    old: Value
    new: Value


class Step(Record):
    """A stage that the change affects."""

    name: str
    changed: list[str]  # its inputs that differ from the base's
    after: list[str]  # stages before it that are affected


class Spread(Record):
    """What another seed does to accuracy, from metrics/noise.json."""

    runs: Count
    standard_deviation: Share
    reach: float = Field(ge=0, le=100)  # above the difference of two seeds in 95 of 100 pairs
    pairs: Count
    false_alarms: Count  # pairs that the test tells apart, though only the seed differs


class NewImages(Record):
    """The new test images, and what was added."""

    verdict: Verdict | Literal["too few to judge"]
    evidence: Evidence | None  # on those that both models answered; None: there are none
    added: list[str]  # files that only the head has; with another label, a file has another name
    removed: list[str] = Field(default=[])  # files that only the base has


class Report(Record):
    """Everything that the report says."""

    base: Side
    head: Side
    verdict: Verdict
    reason: str = ""  # why not comparable
    evidence: Evidence | None = None
    new: NewImages | None = None  # None: there are none
    spread: Spread | None = None
    flips: list[Flip] = Field(default=[])  # the first thousand
    changes: list[Change] = Field(default=[])
    stages: list[Step] = Field(default=[])
    notes: list[str] = Field(default=[])  # what could not be looked at, and why
