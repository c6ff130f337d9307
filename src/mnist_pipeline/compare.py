"""Two results on the same test images: what got better, what got worse, and whether it counts."""

from typing import NamedTuple

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import binomtest


class Metrics(BaseModel):
    """metrics/metrics.json; a number that is missing or not finite is refused."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    accuracy: float = Field(ge=0, le=1)
    loss: float
    correct: int = Field(ge=0)
    total: int = Field(ge=1)
    dry_run: bool


class Result(NamedTuple):
    """What a commit or a folder says of its model."""

    metrics: Metrics
    errors: pd.DataFrame  # metrics/errors.csv: index, label, predicted, confidence
    test_set: tuple[str, ...]  # MD5 of the test images and labels, from dvc.lock


class Comparison(NamedTuple):
    """The test images on which two models differ, as one is right and the other wrong."""

    fixed: list[int]  # indices; wrong in the old result, right in the new one
    broken: list[int]  # the other way round
    p_value: float  # exact McNemar, two-sided


def compare(old: Result, new: Result) -> Comparison:
    """Which errors went and which came.

    Source of the test: Q. McNemar, Note on the sampling error of the difference between
    correlated proportions, Psychometrika 12, 1947; exact by the binomial distribution.
    """
    before, after = set(old.errors["index"]), set(new.errors["index"])
    fixed, broken = sorted(before - after), sorted(after - before)
    return Comparison(fixed, broken, mcnemar(len(fixed), len(broken)))


def mcnemar(fixed: int, broken: int) -> float:
    """Probability of a split at least as uneven, if each image fell either way by chance."""
    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5).pvalue)
