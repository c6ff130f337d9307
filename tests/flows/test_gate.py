"""The gate before publishing: closed to whatever is missing or odd, and exact about worse."""

import hashlib
import json
import math

import pytest
from conftest import git
from flows.gate import approve

from mnist_pipeline.files import InputError


@pytest.fixture
def clone(tmp_path):
    """A clone whose tip has a published result."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "params.yaml").write_text("save: {min_accuracy: 0.95}")
    write_result(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message=published")
    return tmp_path


def write_result(folder, errors=20, test_set="aa", **metrics) -> None:
    """A result that is wrong on the first of 1,000 test images."""
    right = {"accuracy": 1 - errors / 1000, "correct": 1000 - errors, "total": 1000}
    others = {"loss": 0.1, "recall": {"0": 1.0, "1": 0.9}, "dry_run": False}
    rows = "".join(f"{index},1,0,0.9\n" for index in range(errors))
    texts = {
        "metrics/metrics.json": json.dumps(right | others | metrics),
        "metrics/errors.csv": "index,label,predicted,confidence\n" + rows,
    }
    md5s = [hashlib.md5(text.encode(), usedforsecurity=False) for text in texts.values()]
    outs = [{"path": name, "md5": md5.hexdigest()} for name, md5 in zip(texts, md5s, strict=True)]
    evaluate = {"deps": [{"path": "data/images.gz", "md5": test_set}], "outs": outs}
    texts["dvc.lock"] = json.dumps({"stages": {"train": {"outs": []}, "evaluate": evaluate}})
    for name, text in texts.items():
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("changes", "alpha", "verdict"),
    [
        ({}, 0.05, "not significantly worse than the published model: 0 fixed, 0 broken, p = 1"),
        ({"errors": 2}, 0.05, "18 fixed, 0 broken"),
        ({"errors": 25}, 0.05, "0 fixed, 5 broken, p = 0.0625"),
        ({"errors": 26}, 0.01, "0 fixed, 6 broken, p = 0.0312"),
        ({"test_set": "bb"}, 0.05, "not comparable"),
    ],
)
def test_not_significantly_worse_passes(clone, changes, alpha, verdict):
    """The same, better, or worse by what may be chance; a branch may have another test set."""
    write_result(clone, **changes)
    assert verdict in approve(clone, "branch", alpha)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"errors": 26}, r"significantly worse .* 0 fixed, 6 broken, p = 0.0312"),
        ({"errors": 100}, r"accuracy 0.9 is below save.min_accuracy = 0.95"),
        ({"test_set": "bb"}, "not comparable"),
        ({"dry_run": True}, "a dry run"),
        ({"loss": math.nan}, r"metrics/metrics.json: "),
    ],
)
def test_refused_with_the_reason(clone, changes, reason):
    """Worse, poor, not comparable (on main), a dry run, or not finite."""
    write_result(clone, **changes)
    with pytest.raises(InputError, match=reason):
        approve(clone, "main", 0.05)


def write_new(folder, answers: str) -> None:
    """A result with seven new test images, all 3s, and what the model takes them for."""
    write_result(folder)
    rows = "".join(f"3-{at},3,{answer},0.9\n" for at, answer in enumerate(answers))
    text = "name,label,predicted,confidence\n" + rows
    (folder / "metrics/new.csv").write_text(text)
    lock = json.loads((folder / "dvc.lock").read_text())
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    lock["stages"]["evaluate"]["outs"].append({"path": "metrics/new.csv", "md5": md5})
    (folder / "dvc.lock").write_text(json.dumps(lock))


def test_new_images_are_judged_too(clone):
    """Worse on them alone is refused, by the same test; before there were any, nothing is."""
    write_new(clone, "5555555")
    assert "not significantly worse" in approve(clone, "main", 0.05)
    write_new(clone, "3333333")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=published")
    write_new(clone, "3355555")
    assert "not significantly worse" in approve(clone, "main", 0.05)
    write_new(clone, "5555555")
    expected = "published model: on new images: 0 fixed, 7 broken, p = 0.0156"
    with pytest.raises(InputError, match=expected):
        approve(clone, "main", 0.05)


@pytest.mark.parametrize("name", ["metrics/metrics.json", "metrics/errors.csv"])
def test_missing_file_is_refused(clone, name):
    """In the new result; and in the published one, which should have it with its dvc.lock."""
    git(clone, "rm", "--quiet", "--cached", name)
    git(clone, "commit", "--quiet", "--message=gone")
    with pytest.raises(InputError, match="the published result is incomplete"):
        approve(clone, "branch", 0.05)
    (clone / name).unlink()
    with pytest.raises(InputError, match=f"{name}: expected a file"):
        approve(clone, "branch", 0.05)


def test_published_result_that_was_edited_is_refused(clone):
    """There is nothing sound to compare with."""
    (clone / "metrics/errors.csv").write_text("index,label,predicted,confidence\n")
    git(clone, "commit", "--quiet", "--all", "--message=fewer errors")
    write_result(clone)
    with pytest.raises(InputError, match=r"the published result .*errors.csv: edited by hand"):
        approve(clone, "branch", 0.05)


def test_first_publication_says_so(clone):
    """Nothing was ever published: no dvc.lock at the tip."""
    git(clone, "rm", "--quiet", "-r", "--cached", "dvc.lock", "metrics")
    git(clone, "commit", "--quiet", "--message=never")
    assert approve(clone, "main", 0.05).startswith("the first publication")
