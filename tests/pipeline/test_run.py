"""make run: MNIST if it can be had, else the embedded digits."""

import json
import os
from pathlib import Path

import pytest
from conftest import copy_of_project, git, make_run, refusal, set_params
from test_dvc_yaml import STAGES, outputs

from mnist_pipeline import run

# A stage's code, which uses the digits.
STAGE = """from pathlib import Path
from mnist_pipeline.files import read_params
def main():
    assert read_params(Path())["data"] == {{"source": "digits"}}
    for path in {}:
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text({!r})
"""
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
    installed. Here all stages but download are changed: each writes the same into all its outputs.
    """
    right = {"accuracy": 0.5, "loss": 1.0, "correct": 175, "total": 350, "recall": {}}
    text = json.dumps(right | {"dry_run": False})
    for stage in STAGES[1:]:
        code = STAGE.format([*outputs(stage)], text)
        Path(f"src/mnist_pipeline/{stage}.py").write_text(code)
    path = Path("src/mnist_pipeline/download.py")
    path.write_text(path.read_text().replace("RETRIES = 2", "RETRIES = 0"))
    changed = git(project, "status", "--porcelain")
    assert changed.count("\n") == 4
    done = make_run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: train-images-idx3-ubyte.gz: expected MNIST's file at a mirror" in done.stderr
    assert "MNIST cannot be had: running on scikit-learn's 1,797 digits instead" in done.stdout
    assert "175 of 350 test images" in done.stdout
    for path in ("models/mnist_cnn.pt", "models/model_card.md", "metrics/misclassified.png"):
        assert (project / "build/digits" / path).read_text() == text
    assert git(project, "status", "--porcelain") == changed


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
