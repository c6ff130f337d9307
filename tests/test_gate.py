"""The gate before publishing: fail-closed, and exact about worse."""

import json
import math

import pytest
from conftest import ROOT, git
from flows.gate import RefusedError, check
from ruamel.yaml import YAML

from mnist_pipeline.compare import mcnemar


@pytest.fixture
def clone(tmp_path):
    """A clone whose tip has a published result: 20 errors of 1,000."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    write(tmp_path, errors=range(20))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message=published")
    return tmp_path


def write(folder, errors, test_set="aa", **metrics) -> None:
    """A result with errors on these test images."""
    indices = list(errors)
    numbers = {
        "accuracy": 1 - len(indices) / 1000,
        "loss": 0.1,
        "correct": 1000 - len(indices),
        "total": 1000,
        "dry_run": False,
    }
    (folder / "metrics/metrics.json").write_text(json.dumps(numbers | metrics))
    rows = [f"{index},1,2,0.9" for index in indices]
    text = "\n".join(["index,label,predicted,confidence", *rows])
    (folder / "metrics/errors.csv").write_text(text + "\n")
    names = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    deps = [{"path": f"data/MNIST/raw/{name}", "md5": test_set} for name in names]
    YAML().dump({"stages": {"evaluate": {"deps": deps}}}, folder / "dvc.lock")


@pytest.mark.parametrize("fixed", range(0, 12, 3))
@pytest.mark.parametrize("broken", range(0, 12, 2))
def test_p_value_is_the_exact_binomial(fixed, broken):
    """Against a sum of binomial coefficients: twice the smaller tail, at most 1."""
    total = fixed + broken
    tail = sum(math.comb(total, k) for k in range(min(fixed, broken) + 1)) / 2**total
    assert mcnemar(fixed, broken) == pytest.approx(min(1, 2 * tail))


def test_same_result_passes(clone):
    """No image differs: p = 1."""
    verdict = check(clone, "main", 0.05)
    assert verdict.endswith(
        "not significantly worse than the published model: 0 fixed, 0 broken, p = 1"
    )


def test_better_and_slightly_worse_pass(clone):
    """Fewer errors, however many; or five more, which may be chance (p = 0.0625)."""
    write(clone, errors=range(2))
    assert "18 fixed, 0 broken" in check(clone, "main", 0.05)
    write(clone, errors=range(25))
    assert "0 fixed, 5 broken, p = 0.0625" in check(clone, "main", 0.05)


def test_significantly_worse_is_refused_at_alpha(clone):
    """Six more errors: p = 0.03125, worse at 0.05, not at 0.01."""
    write(clone, errors=range(26))
    with pytest.raises(RefusedError, match=r"significantly worse .* 0 fixed, 6 broken, p = 0.0312"):
        check(clone, "branch", 0.05)
    assert "not significantly worse" in check(clone, "branch", 0.01)


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"accuracy": math.nan}, "finite number"),
        ({"loss": math.inf}, "finite number"),
        ({"loss": None}, "loss"),
        ({"dry_run": True}, "a dry run"),
        ({"dry_run": None}, "dry_run"),
        ({"accuracy": 0.981}, "expected 1 - 20/1000 = 0.980000, found 0.981"),
        ({"correct": 900}, "expected 100 rows"),
    ],
)
def test_unsound_result_is_refused(clone, metrics, reason):
    """Not finite, not there, a dry run, or not what errors.csv says."""
    write(clone, errors=range(20), **metrics)
    with pytest.raises(RefusedError, match=reason):
        check(clone, "branch", 0.05)


def test_low_accuracy_is_refused(clone):
    """Below save.min_accuracy, whatever was published."""
    write(clone, errors=range(100))
    with pytest.raises(RefusedError, match=r"accuracy 0.9 is below save.min_accuracy = 0.95"):
        check(clone, "branch", 0.05)


@pytest.mark.parametrize("name", ["metrics/metrics.json", "metrics/errors.csv", "dvc.lock"])
def test_missing_file_is_refused(clone, name):
    """Whichever of the three it is."""
    (clone / name).unlink()
    with pytest.raises(RefusedError, match="no whole result"):
        check(clone, "branch", 0.05)


@pytest.mark.parametrize("name", ["metrics/metrics.json", "metrics/errors.csv"])
def test_missing_baseline_is_refused(clone, name):
    """The tip has a dvc.lock, so it should have a result."""
    git(clone, "rm", "--quiet", "--cached", name)
    git(clone, "commit", "--quiet", "--message=gone")
    with pytest.raises(RefusedError, match="published result should be there"):
        check(clone, "branch", 0.05)


def test_first_publication_says_so(clone):
    """Nothing was ever published: no dvc.lock at the tip."""
    git(clone, "rm", "--quiet", "-r", "--cached", "dvc.lock", "metrics")
    git(clone, "commit", "--quiet", "--message=never")
    assert check(clone, "main", 0.05).startswith("the first publication")


def test_other_test_set_is_not_comparable(clone):
    """A branch may have it, and says so; main not."""
    write(clone, errors=range(20), test_set="bb")
    assert "not comparable" in check(clone, "branch", 0.05)
    with pytest.raises(RefusedError, match="not comparable"):
        check(clone, "main", 0.05)
