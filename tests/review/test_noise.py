"""make noise: the spread over seeds, and whose it is."""

import sys
from pathlib import Path
from statistics import stdev
from typing import Never

import pytest
from conftest import ROOT, git, reproduce
from pets import commit, edit, lock, make_project, write

from mnist_pipeline.files import InputError
from mnist_pipeline.review import noise
from mnist_pipeline.review.noise import NOISE, Noise, configuration, measure, read_spread
from mnist_pipeline.review.result import read_result


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """The cats and dogs, run with seed 2, with a DVC that pushes each experiment."""
    repo = make_project(tmp_path_factory.mktemp("noise"))
    edit(repo, "params.yaml", "seed: 1", "seed: 2")
    remote = f"['remote \"own\"']\n    url = {tmp_path_factory.mktemp('remote')}\n"
    write(repo, ".dvc/config", f"[core]\n    remote = own\n[exp]\n    auto_push = true\n{remote}")
    reproduce(repo, "evaluate")
    commit(repo)
    return repo


def test_file_says_what_the_runs_were(repo, monkeypatch, capfd):
    """Both runs, their spread, and the exact test between them.

    A seed that has been trained is not trained again. Nothing else in the checkout is new. DVC
    needs no name from git, for which it would look in HOME.
    """
    monkeypatch.chdir(repo)
    monkeypatch.setenv("HOME", str(repo.parent))
    monkeypatch.setattr(sys, "argv", ["noise", "--seeds", "2"])
    noise.main()
    log = capfd.readouterr().out
    assert log.count("Running stage 'train'") == 1
    assert git(repo, "status", "--porcelain") == f"?? {NOISE}\n"
    assert git(repo, "for-each-ref", "refs/exps") == ""
    found = Noise.model_validate_json((repo / NOISE).read_text())
    assert [run["seed"] for run in found.runs] == [2, 1]
    for run in found.runs:
        assert f"\nseed {run['seed']}: {run['correct']} of 1,000 test images\n" in log
    accuracies = [run["accuracy"] for run in found.runs]
    assert found.standard_deviation == pytest.approx(stdev(accuracies), abs=1e-8)
    assert found.pairs == [{"seeds": [2, 1], "fixed": 3, "broken": 1, "p_value": 0.625}]
    assert "\n0 of 1 pairs of seeds have p < 0.05" in log


def test_committed_one_is_documented():
    """docs/review.md has the figures of metrics/noise.json."""
    text = (ROOT / NOISE).read_text()
    found = Noise.model_validate_json(text)
    assert found.model_dump_json(indent=2) + "\n" == text
    page = " ".join((ROOT / "docs/review.md").read_text().split())
    *first, last = (f"{100 * run['accuracy']:.2f}" for run in found.runs)
    assert f"{', '.join(first)} and {last} %" in page
    assert f"standard deviation {100 * found.standard_deviation:.3f} points" in page
    assert f"called {found.false_alarms} of the {len(found.pairs)} pairs different" in page


@pytest.mark.parametrize(
    ("name", "old", "new", "same"),
    [
        ("params.yaml", "seed: 1", "seed: 7", True),
        ("params.yaml", "lr: 0.5", "lr: 0.25", False),
        ("dvc.yaml", "python src/train.py", "python -O src/train.py", False),
        ("data/train.csv", "train", "other images", False),
        ("src/train.py", "epoch", "e", False),
        ("src/save.py", "shutil", "sh", True),
        ("dvc.yaml", "- models/weights\n", "- models\n", True),  # evaluate reads a file of it
    ],
)
def test_configuration_is_all_but_the_seed(tmp_path, name, old, new, same):
    """The spread counts only as long as nothing changes that decides the result of a seed."""
    write(make_project(tmp_path), "data/train.csv", "train")
    lock(tmp_path)
    result = read_result(tmp_path)
    measured = measure({1: result, 2: result}, configuration(tmp_path))
    write(tmp_path, str(NOISE), measured.model_dump_json())
    edit(tmp_path, name, old, new)
    lock(tmp_path)
    spread = read_spread([tmp_path])
    assert (spread and spread.runs) == (2 if same else None)


def test_dry_runs_are_refused(tmp_path):
    """Their results say nothing of a seed. Not every project has the parameter."""
    write(tmp_path, "params.yaml", {"train": {"seed": 1, "dry_run": True}})
    with pytest.raises(InputError, match=r"^params.yaml: train.dry_run: expected false"):
        noise._seeds(tmp_path, 2)
    write(tmp_path, "params.yaml", {"train": {"seed": 1}})
    assert noise._seeds(tmp_path, 2) == [1, 2]


def test_trainings_share_the_checkouts_cache(repo, monkeypatch):
    """Its root: DVC's run-cache and the stored epochs lie there, beside the files."""

    def train(folder: Path, _: list[int]) -> Never:
        raise InputError((folder / ".dvc/config.local").read_text())

    monkeypatch.chdir(repo)
    monkeypatch.setattr(sys, "argv", ["noise"])
    with pytest.raises(InputError, match=f"dir = {repo}/.dvc/cache\n"):
        noise.main(train)
