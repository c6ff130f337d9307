"""The gate before publishing refuses what is missing, odd or significantly worse."""

import pytest
from conftest import git
from flows.gate import approve
from review.pets import commit, make_project, plant, plant_new, write

from mnist_pipeline.files import InputError

OTHER_IMAGES = "other test images"


@pytest.fixture
def clone(tmp_path):
    """A clone whose tip has a published result, with 50 errors in 1,000 test images."""
    return make_project(tmp_path)


def change(clone, test_set: str = "", **changes) -> None:
    """Another result in the clone, not committed."""
    if test_set:
        write(clone, "data/test.csv", test_set)
    plant(clone, **changes)


@pytest.mark.parametrize(
    ("changes", "alpha", "verdict"),
    [
        ({"fixed": 18}, 0.05, "not significantly worse than the published model: 18 fixed, 0"),
        ({"broken": 5}, 0.05, "0 fixed, 5 broken, p = 0.0625"),
        ({"broken": 6}, 0.01, "0 fixed, 6 broken, p = 0.0312"),
        ({"test_set": OTHER_IMAGES}, 0.05, "not comparable"),
    ],
)
def test_not_significantly_worse_passes(clone, changes, alpha, verdict):
    """Better, or worse by what may be chance; a branch may have another test set."""
    change(clone, **changes)
    assert verdict in approve(clone, "branch", alpha)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"broken": 6}, r"significantly worse .* 0 fixed, 6 broken, p = 0.0312"),
        ({"broken": 500}, r"accuracy 0.45 is below save.min_accuracy = 0.5"),
        ({"test_set": OTHER_IMAGES}, "not comparable"),
        ({"dry_run": True}, "a dry run"),
    ],
)
def test_refused_with_the_reason(clone, changes, reason):
    """Worse, poor, not comparable (on main), or a dry run."""
    change(clone, **changes)
    with pytest.raises(InputError, match=reason):
        approve(clone, "main", 0.05)


def test_new_images_are_judged_too(clone):
    """A model that is worse on them alone is refused, once the published result has some."""

    def answer(answers: str) -> None:
        plant_new(clone, {f"3-{at}.png": each for at, each in enumerate(answers)})

    answer("5555555")
    assert "not significantly worse" in approve(clone, "main", 0.05)
    answer("3333333")
    commit(clone)
    answer("3355555")
    assert "not significantly worse" in approve(clone, "main", 0.05)
    answer("5555555")
    expected = "published model: on new images: 0 fixed, 7 broken, p = 0.0156"
    with pytest.raises(InputError, match=expected):
        approve(clone, "main", 0.05)
    plant_new(clone, {"3-0.png": "3"})
    with pytest.raises(InputError, match="expected answers to all new test images, 6 are gone"):
        approve(clone, "main", 0.05)


def test_missing_file_is_refused(clone):
    """In the new result, and in the published one, whose dvc.lock names it."""
    name = "metrics/errors.csv"
    git(clone, "rm", "--quiet", "--cached", name)
    git(clone, "commit", "--quiet", "--message=gone")
    with pytest.raises(InputError, match="the published result is incomplete"):
        approve(clone, "branch", 0.05)
    (clone / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected a file"):
        approve(clone, "branch", 0.05)
