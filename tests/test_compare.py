"""The exact test and its interval, against SciPy's own implementation of both."""

import pytest
from scipy.stats import binomtest, t

from mnist_pipeline.compare import ALPHA, compare, interval, least, mcnemar, reach
from mnist_pipeline.results import Metrics, Result, Wrong

SPLITS = [(fixed, broken) for fixed in range(0, 61, 4) for broken in range(0, 61, 5)][1:]


def result(*indices: int) -> Result:
    """A result of 10,000 images with these wrong."""
    correct = 10_000 - len(indices)
    numbers = Metrics(
        accuracy=correct / 10_000, loss=0.1, correct=correct, total=10_000, dry_run=False
    )
    return Result(numbers, dict.fromkeys(indices, Wrong(1, 2)), ("a", "b"))


def test_same_errors_give_one():
    """No image differs: p = 1, no interval, nothing that the test could notice."""
    found = compare(result(1, 2, 3), result(1, 2, 3))
    assert found == ([], [], 1.0)
    assert interval(0, 0, 10_000, ALPHA) is None
    assert least(0, ALPHA) is None


def test_forty_planted_flips_are_found():
    """All one way, forty images that differ by chance have p = 2 / 2**40."""
    found = compare(result(*range(50)), result(*range(10)))
    assert found.fixed == list(range(10, 50))
    assert found.broken == []
    assert found.p_value == pytest.approx(2 / 2**40)


@pytest.mark.parametrize(("fixed", "broken"), SPLITS)
def test_p_value_and_interval_are_those_of_scipy(fixed, broken):
    """The binomial test and the exact interval of scipy.stats; both agree on what counts."""
    expected = binomtest(fixed, fixed + broken, 0.5)
    assert mcnemar(fixed, broken) == pytest.approx(expected.pvalue)
    share = expected.proportion_ci(1 - ALPHA, method="exact")
    scale = (fixed + broken) / 10_000
    low, high = interval(fixed, broken, 10_000, ALPHA)
    assert (low, high) == pytest.approx(((2 * share.low - 1) * scale, (2 * share.high - 1) * scale))
    assert low - 1e-12 <= (fixed - broken) / 10_000 <= high + 1e-12
    assert (low > 0 or high < 0) == (mcnemar(fixed, broken) < ALPHA)


@pytest.mark.parametrize("differ", [1, 5, 6, 7, 39, 40, 200, 5000])
def test_least_is_where_the_test_begins_to_notice(differ):
    """One image less one way is not noticed; below six images nothing is; 27 of 40."""
    found = least(differ, ALPHA)
    if differ < 6:
        assert found is None
        return
    assert binomtest(found, differ).pvalue < ALPHA <= binomtest(found - 1, differ).pvalue
    assert differ != 40 or found == 27


@pytest.mark.parametrize("runs", [2, 5, 30])
def test_reach_is_students(runs):
    """The spread of a difference of two: √2 times one's, with runs - 1 degrees of freedom."""
    expected = t(df=runs - 1, scale=2**0.5 * 0.0003).isf(ALPHA / 2)
    assert reach(0.0003, runs, ALPHA) == pytest.approx(expected)
