"""The exact test, its interval, and what it is able to see."""

import pytest

from mnist_pipeline.review.statistics import (
    ALPHA,
    interval,
    least,
    mcnemar,
    reach,
)


@pytest.mark.parametrize(("fixed", "broken"), [(27, 13), (26, 14), (0, 6), (9, 9)])
def test_interval_leaves_out_zero_where_the_test_notices(fixed, broken):
    """The interval contains the difference that was found, and agrees with the test about 0."""
    low, high = interval(fixed, broken, 10_000)
    assert low <= (fixed - broken) / 10_000 <= high
    assert (low > 0 or high < 0) == (mcnemar(fixed, broken) < ALPHA)


@pytest.mark.parametrize(("differ", "expected"), [(5, None), (6, 6), (40, 27), (200, 115)])
def test_least_is_where_the_test_begins_to_notice(differ, expected):
    """With one image less, no difference is noticed; below six images none ever is."""
    assert least(differ) == expected
    if expected:
        assert mcnemar(expected, differ - expected) < ALPHA
        assert mcnemar(expected - 1, differ - expected + 1) >= ALPHA


def test_reach_is_students():
    """The spread of a difference of two: √2 times one's. 2.776: Student's t, 4 degrees, 97.5 %."""
    assert reach(0.0003, 5) == pytest.approx(2.776 * 2**0.5 * 0.0003, rel=1e-3)
