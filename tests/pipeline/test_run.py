"""make run: MNIST if it can be had, else the embedded digits."""

import json
import os
from pathlib import Path

import pytest
from conftest import copy_of_project, git, make_run, refusal, set_params

from mnist_pipeline import run

MIRROR = Path(os.environ.get("MNIST_MIRROR", "missing")).resolve()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A copy of the project, as the working folder, where no mirror is set."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    return tmp_path


def test_without_a_mirror_the_digits_run(project):
    """One line says so; model, metrics and picture lie in build/; the checkout stays as it was.

    DVC commits changed files for the experiment, which runs their code, though another checkout is
    installed. Here no mirror is asked again, and 350 images are for testing.
    """
    set_params(train={"dry_run": True})
    edits = {"digits.py": ("TEST_SIZE = 360", "TEST_SIZE = 350"), "download.py": ("S = 2", "S = 0")}
    for name, edit in edits.items():
        code = Path("src/mnist_pipeline", name)
        code.write_text(code.read_text().replace(*edit))
    done = make_run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: train-images-idx3-ubyte.gz: expected MNIST's file at a mirror" in done.stderr
    assert "MNIST cannot be had: running on scikit-learn's 1,797 digits instead" in done.stdout
    metrics = json.loads((project / "build/digits/metrics/metrics.json").read_text())
    assert metrics["total"] == 350
    assert f"{metrics['correct']:,} of 350 test images" in done.stdout
    for path in ("models/mnist_cnn.pt", "models/model_card.md", "metrics/misclassified.png"):
        assert (project / "build/digits" / path).is_file()
    changed = ["params.yaml", *(f"src/mnist_pipeline/{name}" for name in edits)]
    assert git(project, "status", "--porcelain") == "".join(f" M {path}\n" for path in changed)


def test_an_unknown_source_is_refused(workspace, capsys):
    """It must not look like a missing mirror."""
    set_params(data={"source": "mnst"})
    expected = "params.yaml: data.source: expected 'mnist' or 'digits'"
    assert refusal(run.main, capsys).startswith(expected)


@pytest.mark.skipif(not MIRROR.is_dir(), reason="no folder in MNIST_MIRROR")
def test_other_faults_of_the_download_are_no_missing_mirror(project, monkeypatch):
    """Where MNIST can be had, dvc's own reason stands alone, and nothing runs on the digits."""
    monkeypatch.setenv("MNIST_MIRROR", str(MIRROR))
    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("desc:", "dessc:", 1))
    done = make_run(project)
    assert done.returncode == 255
    assert "dessc" in done.stdout + done.stderr
    assert "digits" not in done.stdout
