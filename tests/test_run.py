"""make run: MNIST where it can be had, the embedded digits where not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, copy_of_project, dvc, git, set_params

from mnist_pipeline import run
from mnist_pipeline.mnist_files import RAW


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project that trains for one epoch and exports anything."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    set_params(train={"epochs": 1}, save={"min_accuracy": 0})
    git(tmp_path, "commit", "--quiet", "--all", "--message=short")
    return tmp_path


def make_run(project) -> subprocess.CompletedProcess[str]:
    """What make run starts."""
    return subprocess.run(
        [sys.executable, "-m", "mnist_pipeline.run"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_mirror_the_digits_run(project):
    """One line says so; model, metrics and picture lie in build/; the checkout stays clean."""
    done = make_run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("No mirror of MNIST answers: running on scikit-learn's 1,797")
    metrics = json.loads((project / "build/digits/metrics/metrics.json").read_text())
    assert metrics["total"] == 360
    assert f"{metrics['correct']:,} of 360 test images" in done.stdout
    for path in ("models/mnist_cnn.pt", "models/model_card.md", "metrics/misclassified.png"):
        assert (project / "build/digits" / path).is_file()
    assert git(project, "status", "--porcelain") == ""
    assert not run.at_hand()


def test_dvc_repro_itself_never_switches(project):
    """Without a mirror it fails with the stage's one line, and names the mirrors it tried."""
    done = dvc(project, "repro")
    assert done.returncode != 0
    assert "error: train-images-idx3-ubyte.gz: expected MNIST's file at a mirror" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (project / "models").exists()


def test_a_failing_run_says_why_and_ends_with_dvcs_status(project):
    """Bad parameters are refused before anything runs; DVC's own failures pass through."""
    set_params(data={"source": "mnst"})
    done = make_run(project)
    assert done.returncode == 2
    assert done.stderr.startswith("error: params.yaml: data.source: expected 'mnist' or 'digits'")
    set_params(data={"source": "digits"}, train={"lr": -1})
    done = make_run(project)
    assert done.returncode == 255
    assert "error: params.yaml: train.lr: expected greater than 0, found -1" in done.stderr
    assert "accuracy" not in done.stdout


@pytest.mark.parametrize(("at_hand", "reachable"), [(True, False), (False, True)])
def test_with_mnist_it_is_exactly_dvc_repro(workspace, monkeypatch, at_hand, reachable):
    """At hand or at a mirror: `dvc repro`, and nothing but."""
    calls, reports = [], []
    monkeypatch.setattr(run, "at_hand", lambda: at_hand)
    monkeypatch.setattr(run, "reachable", lambda: reachable)
    monkeypatch.setattr(run, "dvc", lambda *words: calls.append(words))
    monkeypatch.setattr(run, "report", lambda *words: reports.append(words))
    run.main()
    assert calls == [("repro",)]
    assert reports == [(Path(), "dvc plots show")]


def test_digits_under_mnists_names_are_not_mnist(workspace):
    """At hand means the published hashes, not the names."""
    assert (workspace / RAW).is_dir()
    assert not run.at_hand()


@pytest.mark.skipif("MNIST_MIRROR" not in os.environ, reason="needs MNIST_MIRROR")
def test_mnist_in_dvcs_cache_is_at_hand(tmp_path, monkeypatch):
    """Deleted from data/, it comes back from the cache, with no mirror in reach."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert dvc(tmp_path, "repro", "download").returncode == 0
    monkeypatch.delenv("MNIST_MIRROR")
    for path in RAW.iterdir():
        path.unlink()
    assert run.at_hand()


@pytest.mark.skipif("MNIST_MIRROR" not in os.environ, reason="needs MNIST_MIRROR")
def test_a_mirror_with_mnist_is_reachable(monkeypatch):
    """MNIST_MIRROR is asked first."""
    monkeypatch.chdir(ROOT)
    assert run.reachable()


def test_no_mirror_is_not_reachable(monkeypatch):
    """Nothing answers here."""
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    assert not run.reachable()
