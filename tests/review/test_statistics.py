"""The exact test, its interval, and what it is able to see."""

import pytest
from scipy.stats import t

from mnist_pipeline.metrics import Metrics
from mnist_pipeline.review.result import Answer, Result
from mnist_pipeline.review.statistics import (
    ALPHA,
    compare,
    compare_new,
    interval,
    least,
    mcnemar,
    reach,
)


def result(*indices: int) -> Result:
    """A result of 10,000 images with these wrong."""
    correct = 10_000 - len(indices)
    numbers = {"accuracy": correct / 10_000, "loss": 0.1, "correct": correct, "total": 10_000}
    metrics = Metrics(**numbers, recall={"cat": 1.0, "dog": 1.0}, dry_run=False)
    return Result(metrics, dict.fromkeys(indices, Answer("cat", "dog")), {}, ("a", "b"))


def test_errors_gone_are_fixed_and_new_ones_broken():
    """Forty gone and one new, which would be chance in 2 · (1 + 41) of 2^41 cases."""
    found = compare(result(*range(50)), result(*range(10), 99))
    assert (found.fixed, found.broken) == (list(range(10, 50)), [99])
    assert found.p_value == pytest.approx(2 * 42 / 2**41)


def test_new_images_are_compared_where_both_know_them():
    """By name, which holds the label: one that has another label now is another image."""
    right, wrong = Answer("3", "3"), Answer("3", "5")
    old = result()._replace(new={"3-a": wrong, "3-b": right, "3-c": wrong, "3-d": wrong})
    new = result()._replace(new={"3-a": right, "3-b": wrong, "3-c": right, "5-d": wrong})
    found = compare_new(old, new)
    assert (found.total, found.fixed, found.broken) == (3, ["3-a", "3-c"], ["3-b"])
    assert compare_new(old, result()).total == 0


@pytest.mark.parametrize(("fixed", "broken"), [(27, 13), (26, 14), (0, 6), (9, 9)])
def test_interval_leaves_out_zero_where_the_test_notices(fixed, broken):
    """The interval contains the difference that was found, and agrees with the test about 0."""
    low, high = interval(fixed, broken, 10_000)
    assert low <= (fixed - broken) / 10_000 <= high
    assert (low > 0 or high < 0) == (mcnemar(fixed, broken) < ALPHA)


def test_where_no_image_differs_nothing_is_noticed():
    """The same answers: no evidence of anything, and no interval to speak of."""
    assert mcnemar(0, 0) == 1
    assert interval(0, 0, 10_000) is None
    assert least(0) is None


@pytest.mark.parametrize(("differ", "expected"), [(5, None), (6, 6), (40, 27), (200, 115)])
def test_least_is_where_the_test_begins_to_notice(differ, expected):
    """With one image less, no difference is noticed; below six images none ever is."""
    assert least(differ) == expected
    if expected:
        assert mcnemar(expected, differ - expected) < ALPHA
        assert mcnemar(expected - 1, differ - expected + 1) >= ALPHA


@pytest.mark.parametrize("runs", [2, 5, 30])
def test_reach_is_students(runs):
    """The spread of a difference of two: √2 times one's, with runs - 1 degrees of freedom."""
    expected = t(df=runs - 1, scale=2**0.5 * 0.0003).isf(ALPHA / 2)
    assert reach(0.0003, runs) == pytest.approx(expected)
