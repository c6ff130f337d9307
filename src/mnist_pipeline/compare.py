"""Two results on the same test images: what got better, what got worse, and whether it counts."""

import math
from typing import NamedTuple

from scipy.special import bdtr, betaincinv, stdtrit  # scipy.stats takes a second to import

from mnist_pipeline.results import Result

ALPHA = 0.05  # of the report; the retraining has a parameter of its own


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
    before, after = set(old.errors), set(new.errors)
    fixed, broken = sorted(before - after), sorted(after - before)
    return Comparison(fixed, broken, mcnemar(len(fixed), len(broken)))


def mcnemar(fixed: int, broken: int) -> float:
    """Probability of a split at least as uneven, if each image fell either way by chance."""
    return min(1.0, 2 * float(bdtr(min(fixed, broken), fixed + broken, 0.5)))


def interval(fixed: int, broken: int, total: int, alpha: float) -> tuple[float, float] | None:
    """Confidence interval of the difference in accuracy, new less old; None if no image differs.

    Given the n images that differ, the share fixed q is binomial and the difference
    (2q - 1) n / total. The interval leaves out 0 exactly where `mcnemar` is below alpha.
    Source: C. J. Clopper and E. S. Pearson, The use of confidence or fiducial limits
    illustrated in the case of the binomial, Biometrika 26, 1934.
    """
    differ = fixed + broken
    if differ == 0:
        return None
    low = betaincinv(fixed, broken + 1, alpha / 2) if fixed else 0.0
    high = betaincinv(fixed + 1, broken, 1 - alpha / 2) if broken else 1.0
    return float(2 * low - 1) * differ / total, float(2 * high - 1) * differ / total


def least(differ: int, alpha: float) -> int | None:
    """Of so many images that differ, how many one way `mcnemar` notices; None: all are too few."""
    splits = range((differ + 1) // 2, differ + 1)
    return next((larger for larger in splits if mcnemar(larger, differ - larger) < alpha), None)


def reach(standard_deviation: float, runs: int, alpha: float) -> float:
    """What the accuracies of two seeds differ by at most, with probability 1 - alpha.

    `standard_deviation` is estimated from so many runs (two or more), taken as normal: the
    difference of two has √2 times it, and Student's distribution with runs - 1 degrees.
    """
    return float(stdtrit(runs - 1, 1 - alpha / 2)) * math.sqrt(2) * standard_deviation
