"""Two results on the same test images: what got better, what got worse, and whether it counts."""

import math
from typing import Any, NamedTuple

from scipy.stats import binomtest, t

from mnist_pipeline.review.result import Result
from mnist_pipeline.review.schema import Evidence, Verdict

ALPHA = 0.05  # of the report; a retraining's verdict has a parameter of its own


class Comparison(NamedTuple):
    """The test images on which one of two models is right and the other one wrong."""

    total: int  # images that both answered
    fixed: list[Any]  # indices or names; wrong in the old result, right in the new one
    broken: list[Any]  # the other way round
    p_value: float  # exact McNemar, two-sided

    def verdict(self, alpha: float) -> Verdict:
        """Whether the new model is better, worse, or neither for certain."""
        if self.p_value >= alpha:
            return "no evidence of a difference"
        return "improvement" if len(self.fixed) > len(self.broken) else "regression"


def compare(old: Result, new: Result) -> Comparison:
    """Which errors went and which came.

    Source of the test: Q. McNemar, Note on the sampling error of the difference between
    correlated proportions, Psychometrika 12, 1947; exact by the binomial distribution.
    """
    return _compare(new.metrics.total, set(old.errors), set(new.errors))


def compare_new(old: Result, new: Result) -> Comparison:
    """The same for the new test images that both results have answers to."""
    both = old.new.keys() & new.new.keys()
    wrong = [
        {name for name in both if each.new[name].label != each.new[name].predicted}
        for each in (old, new)
    ]
    return _compare(len(both), *wrong)


def _compare(total: int, before: set[Any], after: set[Any]) -> Comparison:
    fixed, broken = sorted(before - after), sorted(after - before)
    return Comparison(total, fixed, broken, mcnemar(len(fixed), len(broken)))


def weigh(found: Comparison) -> Evidence:
    """The numbers behind a verdict."""
    fixed, broken = len(found.fixed), len(found.broken)
    return Evidence(
        total=found.total,
        fixed=fixed,
        broken=broken,
        p_value=found.p_value,
        alpha=ALPHA,
        interval=interval(fixed, broken, found.total),
        least=least(fixed + broken),
    )


def mcnemar(fixed: int, broken: int) -> float:
    """Probability of a split at least as uneven, if each image fell either way by chance."""
    differ = fixed + broken
    return float(binomtest(fixed, differ).pvalue) if differ else 1.0


def interval(fixed: int, broken: int, total: int) -> tuple[float, float] | None:
    """Confidence interval of the difference in accuracy, new less old; None if no image differs.

    Given that n images differ, the share q of them that is fixed is binomial, and the difference is
    (2q - 1) n / total. So the interval ignores that n itself may differ on other images. It
    leaves out 0 exactly where `mcnemar` is below ALPHA.
    """
    differ = fixed + broken
    if differ == 0:
        return None
    share = binomtest(fixed, differ).proportion_ci(1 - ALPHA, method="exact")
    return float(2 * share.low - 1) * differ / total, float(2 * share.high - 1) * differ / total


def least(differ: int) -> int | None:
    """How many of the images that differ must go one way to count; None if they are too few."""
    splits = range((differ + 1) // 2, differ + 1)
    return next((larger for larger in splits if mcnemar(larger, differ - larger) < ALPHA), None)


def reach(standard_deviation: float, runs: int) -> float:
    """The most by which the accuracies of two seeds differ, with probability 1 - ALPHA.

    Accuracies are taken as normal, their standard deviation as estimated from two runs or more. The
    difference of two has √2 times it, and Student's distribution with runs - 1 degrees of freedom.
    """
    return float(t.ppf(1 - ALPHA / 2, runs - 1)) * math.sqrt(2) * standard_deviation
