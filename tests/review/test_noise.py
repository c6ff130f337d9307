"""make noise: the spread over seeds, on the digits; and what its file refuses."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from statistics import stdev

import pytest
from conftest import ROOT, dvc, git, refusal, set_params
from pets import commit, edit, lock, make_project, write
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.review import noise
from mnist_pipeline.review.noise import NOISE, Noise, configuration, read_spread


def start(repo: Path) -> subprocess.Popen[str]:
    """make noise with two seeds, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline", "noise", "--seeds", "2"],
        cwd=repo,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(repo: Path) -> str:
    """What make noise prints."""
    with start(repo) as process:
        text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """The cats and dogs with seed 2; make noise interrupted after it."""
    repo = make_project(tmp_path_factory.mktemp("noise"))
    edit(repo, "params.yaml", "seed: 1", "seed: 2")
    commit(repo)
    with start(repo) as process:
        for line in process.stdout:
            if line.startswith("seed 2: "):
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert not (repo / NOISE).exists()
    return repo


@pytest.fixture(scope="module")
def log(repo) -> str:
    """What make noise prints when it is started again."""
    return finish(repo)


def test_finished_seeds_are_not_trained_again(repo, log):
    """After Ctrl-C only the second seed is trained; a third time none, and the bytes stay."""
    first, second = log.split("\nseed 2: ")
    assert "Stage 'train' is cached" in first
    assert "Running stage 'train'" not in first
    assert "Running stage 'train'" in second
    before = (repo / NOISE).read_bytes()
    assert "Running stage" not in finish(repo)
    assert (repo / NOISE).read_bytes() == before


def test_file_says_what_the_runs_were(repo, log):
    """Both runs, their spread, and the exact test between them."""
    found = Noise.model_validate_json((repo / NOISE).read_text())
    assert [run["seed"] for run in found.runs] == [2, 1]
    for run in found.runs:
        assert f"\nseed {run['seed']}: {run['correct']} of 1,000 test images\n" in log
    accuracies = [run["accuracy"] for run in found.runs]
    assert found.standard_deviation == pytest.approx(stdev(accuracies), abs=1e-8)
    assert found.pairs == [{"seeds": [2, 1], "fixed": 3, "broken": 1, "p_value": 0.625}]
    assert "\n0 of 1 pairs of seeds have p < 0.05" in log


def test_only_its_file_is_new(repo, log):
    """The checkout stays as it was; DVC knows nothing of metrics/noise.json."""
    assert git(repo, "status", "--porcelain") == f"?? {NOISE}\n"
    assert "noise" not in dvc(repo, "status", "--json").stdout


def test_lock_of_another_machine_repeats_nothing(repo, log):
    """dvc.lock may name weights that only its author's cache has: this machine's runs count."""
    dvc(repo, "repro", "evaluate")
    text = (repo / "dvc.lock").read_text()
    outs = YAML(typ="safe").load(text)["stages"]["train"]["outs"]
    (md5,) = [out["md5"] for out in outs if out["path"].startswith("models/")]
    (repo / "dvc.lock").write_text(text.replace(md5, md5[::-1]))
    git(repo, "commit", "--quiet", "--all", "--message=another machine's")
    log = finish(repo)
    assert "Running stage" not in log


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [
        ("1", "--seeds: expected at least 2, found 1"),
        ("2", "params.yaml: train.dry_run: expected false, as dry runs say nothing"),
    ],
)
def test_what_has_no_spread_is_refused(tmp_path, monkeypatch, capsys, seeds, expected):
    """A single run, or runs of one batch: one line, before anything is trained."""
    set_params(make_project(tmp_path), train={"dry_run": True})
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["noise", "--seeds", seeds])
    assert refusal(noise.main, capsys) == expected


# The file


def test_committed_one_is_of_this_configuration_and_documented():
    """metrics/noise.json belongs to main's code and parameters; docs/review.md has its figures."""
    text = (ROOT / NOISE).read_text()
    found = Noise.model_validate_json(text)
    assert found.model_dump_json(indent=2) + "\n" == text
    assert found.configuration == configuration(ROOT)
    page = " ".join((ROOT / "docs/review.md").read_text().split())
    *first, last = (f"{100 * run['accuracy']:.2f}" for run in found.runs)
    assert f"{', '.join(first)} and {last} %" in page
    assert f"standard deviation {100 * found.standard_deviation:.3f} points" in page
    assert f"{found.false_alarms} of {len(found.pairs)}" in page


@pytest.mark.parametrize(
    ("name", "old", "new", "same"),
    [
        ("params.yaml", "seed: 1", "seed: 7", True),
        ("params.yaml", "lr: 0.5", "lr: 0.25", False),
        ("params.yaml", "shelter", "street", False),
        ("params.yaml", "threads: 2", "threads: 1", False),
        ("src/model.py", "2", "3", False),
        ("src/train.py", "epoch", "e", False),
        ("src/save.py", "shutil", "sh", True),
        ("params.yaml", "min_accuracy: 0.5", "min_accuracy: 0.4", True),
    ],
)
def test_configuration_is_all_but_the_seed(tmp_path, name, old, new, same):
    """What decides the result of a seed changes the hash, and nothing else does."""
    before = configuration(make_project(tmp_path))
    edit(tmp_path, name, old, new)
    lock(tmp_path)
    assert (configuration(tmp_path) == before) == same


@pytest.mark.parametrize(
    "change",
    [{"runs": []}, {"standard_deviation": float("nan")}, {"standard_deviation": 2.0}, {"note": 1}],
)
def test_file_with_a_fault_is_refused(tmp_path, change):
    """Too few runs, what is not finite, out of range or unknown."""
    write(tmp_path, str(NOISE), json.loads((ROOT / NOISE).read_text()) | change)
    with pytest.raises(InputError, match=rf"^{NOISE}: "):
        read_spread([tmp_path])
