"""make noise: the spread over seeds, on the digits; and what its file refuses."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from statistics import stdev

import pytest
from conftest import ROOT, copy_of_project, dvc, git, refusal, set_params
from pydantic import ValidationError
from ruamel.yaml import YAML
from scipy.stats import binomtest

from mnist_pipeline import noise
from mnist_pipeline.noise_file import MOST, PATH, Noise, configuration
from mnist_pipeline.results import LARGEST, Metrics, Result, Wrong
from mnist_pipeline.stage import InputError

BOMB = "a: &a [1, 1]\n" + "".join(f"{y}: &{y} [*{x}, *{x}]\n" for x, y in pairwise("abcdefghijkl"))
BOMB += "data: *l\nruntime: 1\ntrain: 1\nevaluate: 1\n"  # 4,096 values
PARAMS, LOCK = (ROOT / "params.yaml").read_text(), (ROOT / "dvc.lock").read_text()


def start(repo: Path) -> subprocess.Popen[str]:
    """make noise with two seeds, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline.noise", "--seeds", "2"],
        cwd=repo,
        env=os.environ | {"PYTHONPATH": "src", "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    """A copy of the project on the digits, seed 2 and one epoch; make noise interrupted there."""
    repo = copy_of_project(tmp_path_factory.mktemp("noise"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repo)
        set_params(data={"source": "digits"}, train={"epochs": 1, "seed": 2})
    (repo / PATH).unlink(missing_ok=True)  # MNIST's
    git(repo, "commit", "--quiet", "--all", "--message=digits")
    with start(repo) as process:
        for line in process.stdout:
            if line.startswith("seed 2: "):
                break
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert not (repo / PATH).exists()
    return repo


@pytest.fixture(scope="module")
def log(repo) -> str:
    """What make noise prints when it is started again."""
    with start(repo) as process:
        text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


def test_finished_seeds_are_not_trained_again(repo, log):
    """After Ctrl-C only the second seed is trained; a third time none, and the bytes stay."""
    first, second = log.split("\nseed 2: ")
    assert "Stage 'train' is cached" in first
    assert "Running stage 'train'" not in first
    assert "Running stage 'train'" in second
    before = (repo / PATH).read_bytes()
    with start(repo) as process:
        text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "Running stage" not in text
    assert (repo / PATH).read_bytes() == before


def test_file_says_what_the_runs_were(repo, log):
    """Both runs, their spread, and the exact test between them, of this configuration."""
    found = Noise.model_validate_json((repo / PATH).read_text())
    assert [run.seed for run in found.runs] == [2, 1]
    assert all(run.total == 360 for run in found.runs)
    for run in found.runs:
        assert f"\nseed {run.seed}: {run.correct} of 360 test images\n" in log
    assert found.standard_deviation == pytest.approx(stdev(run.accuracy for run in found.runs))
    (pair,) = found.pairs
    first, second = found.runs
    assert pair.fixed - pair.broken == second.correct - first.correct
    assert pair.p_value == pytest.approx(
        binomtest(pair.fixed, pair.fixed + pair.broken).pvalue, rel=1e-5
    )
    assert f"{found.false_alarms} of 1 pairs of seeds have p < 0.05" in log


def test_configuration_is_that_of_the_code(repo, log):
    """Its hash is found again from params.yaml and a dvc.lock of the same modules."""
    found = Noise.model_validate_json((repo / PATH).read_text())
    lock = YAML(typ="safe").load(LOCK)
    for dep in lock["stages"]["train"]["deps"] + lock["stages"]["evaluate"]["deps"]:
        if dep["path"].startswith("src/"):
            content = (repo / dep["path"]).read_bytes()
            dep["md5"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    text = json.dumps(lock)  # which is YAML
    assert found.configuration == configuration((repo / "params.yaml").read_text(), text)


def test_only_its_file_is_new(repo, log):
    """The checkout stays as it was; DVC knows nothing of metrics/noise.json."""
    assert git(repo, "status", "--porcelain") == f"?? {PATH}\n"
    status = json.loads(dvc(repo, "status", "--json").stdout)
    (repo / PATH).write_text("{}")
    assert json.loads(dvc(repo, "status", "--json").stdout) == status
    assert "noise" not in json.dumps(status)


def test_lock_of_another_machine_repeats_nothing(repo, log):
    """dvc.lock may name weights that only its author's cache has: this machine's runs count."""
    dvc(repo, "repro", "evaluate")
    text = (repo / "dvc.lock").read_text()
    (weights,) = {
        out["md5"]
        for out in YAML(typ="safe").load(text)["stages"]["train"]["outs"]
        if out["path"] == "models/weights.safetensors"
    }
    (repo / "dvc.lock").write_text(text.replace(weights, weights[::-1]))
    git(repo, "commit", "--quiet", "--all", "--message=another machine's")
    with start(repo) as process:
        log = process.communicate()[0]
    assert process.returncode == 0, log
    assert "Running stage" not in log


def test_dry_runs_are_refused(tmp_path, monkeypatch, capsys):
    """Results of one batch say nothing of seeds: one line, before anything is trained."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    set_params(train={"dry_run": True})
    git(tmp_path, "commit", "--quiet", "--all", "--message=dry")
    monkeypatch.setattr("sys.argv", ["noise"])
    assert refusal(noise.main, capsys).startswith("params.yaml: train.dry_run: expected false")


def test_folder_without_dvc_is_one_line(tmp_path, monkeypatch, capsys):
    """A git repository of something else has no cache."""
    git(tmp_path, "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["noise"])
    assert refusal(noise.main, capsys).startswith(".: expected a DVC repository, found: ")


@pytest.mark.parametrize("number", ["1", "31"])
def test_number_of_seeds_is_bounded(monkeypatch, capsys, number):
    """One run has no spread."""
    monkeypatch.setattr("sys.argv", ["noise", "--seeds", number])
    assert refusal(noise.main, capsys) == f"--seeds: expected 2 to 30, found {number}"


# The file


def test_committed_one_is_of_this_configuration_and_documented():
    """metrics/noise.json belongs to main's code and parameters; docs/review.md has its figures."""
    found = Noise.model_validate_json((ROOT / PATH).read_text())
    assert found.configuration == configuration(PARAMS, LOCK)
    text = " ".join((ROOT / "docs/review.md").read_text().split())
    *first, last = (f"{run.accuracy:.2%}".removesuffix("%") for run in found.runs)
    assert f"{', '.join(first)} and {last} %" in text
    assert f"standard deviation {100 * found.standard_deviation:.3f} points" in text
    assert f"was {found.false_alarms} of {len(found.pairs)}" in text


def valid() -> dict:
    """A file of two seeds that agrees with itself."""
    runs = [
        {"seed": 1, "correct": 990, "total": 1000, "accuracy": 0.99},
        {"seed": 2, "correct": 980, "total": 1000, "accuracy": 0.98},
    ]
    pair = {"seeds": [1, 2], "fixed": 5, "broken": 15, "p_value": 0.0413895}
    return {
        "configuration": "0" * 64,
        "alpha": 0.05,
        "runs": runs,
        "standard_deviation": 0.00707107,
        "pairs": [pair],
        "false_alarms": 1,
    }


def test_valid_file_is_read():
    """So that what follows is refused for its fault alone."""
    assert Noise.model_validate_json(json.dumps(valid())).false_alarms == 1


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (["configuration"], "../../etc"),
        (["alpha"], float("nan")),
        (["alpha"], "0.05"),
        (["runs"], []),
        (["runs", 0, "seed"], -1),
        (["runs", 0, "seed"], 2),
        (["runs", 0, "correct"], 991),
        (["runs", 0, "total"], 0),
        (["runs", 0, "accuracy"], float("inf")),
        (["runs", 0, "note"], "<b>"),
        (["standard_deviation"], 0.007),
        (["pairs"], []),
        (["pairs", 0, "seeds"], [2, 1]),
        (["pairs", 0, "p_value"], 1.5),
        (["false_alarms"], 0),
    ],
)
def test_file_with_a_fault_is_refused(where, value):
    """Mistyped, out of range, not finite, unknown, or at odds with the rest."""
    tree = valid()
    inner = tree
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(ValidationError):
        Noise.model_validate_json(json.dumps(tree))


def test_a_seed_counts_once():
    """The same run twice would make the spread look smaller."""
    tree = valid()
    tree["runs"][1]["seed"], tree["pairs"][0]["seeds"] = 1, [1, 1]
    with pytest.raises(ValidationError):
        Noise.model_validate_json(json.dumps(tree))


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("seed: 1 ", "seed: 7 ", True),
        ("lr: 1.0 ", "lr: 0.5 ", False),
        ("source: mnist ", "source: digits ", False),
        ("threads: 0 ", "threads: 1 ", False),
        ("min_accuracy: 0.95 ", "min_accuracy: 0.9 ", True),
        ("interval: 10 ", "interval: 20 ", True),
    ],
)
def test_configuration_is_all_but_the_seed(old, new, same):
    """What decides the result of a seed changes the hash, and nothing else does."""
    assert PARAMS.count(old) == 1
    changed = configuration(PARAMS.replace(old, new), LOCK)
    assert (changed == configuration(PARAMS, LOCK)) == same


@pytest.mark.parametrize(
    ("module", "same"), [("train", False), ("evaluate", False), ("save", True)]
)
def test_configuration_has_the_code(module, same):
    """A change of what train or evaluate runs with is another configuration."""
    path = f"path: src/mnist_pipeline/{module}.py\n      hash: md5\n      md5: "
    assert LOCK.count(path) == 1
    before, after = LOCK.split(path)
    changed = configuration(PARAMS, f"{before}{path}{'f' * 32}{after[32:]}")
    assert (changed == configuration(PARAMS, LOCK)) == same


@pytest.mark.parametrize("text", ["", "[1, 2", "- 1", "train: 1", "[" * 1000, "{1: {}}", BOMB])
def test_texts_of_something_else_are_refused(text):
    """Neither file is trusted to be what its name says."""
    with pytest.raises(InputError, match=r"^dvc\.lock: "):
        configuration(PARAMS, text)
    with pytest.raises(InputError, match=r"^params\.yaml: "):
        configuration(text, LOCK)


def test_largest_file_can_be_read():
    """As many seeds as make noise takes: the report reads what it wrote."""
    wrong = dict.fromkeys(range(100), Wrong(1, 7))
    metrics = Metrics(accuracy=0.99, loss=0.1, correct=9900, total=10_000, dry_run=False)
    results = {2**32 - 1 - seed: Result(metrics, wrong, ("", "")) for seed in range(MOST)}
    text = noise.measure(results, "0" * 64).model_dump_json(indent=2)
    assert len(text) < LARGEST[PATH.suffix]
    assert len(Noise.model_validate_json(text).pairs) == MOST * (MOST - 1) // 2
