"""make run: MNIST if it can be had, else the embedded digits."""

import json
import os
from pathlib import Path

import pytest
from conftest import copy_of_project, git, make_run, set_params

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

    Files are changed, which DVC commits for the experiment: here, no mirror is asked again.
    """
    set_params(train={"dry_run": True})
    code = Path("src/mnist_pipeline/download.py")
    code.write_text(code.read_text().replace("RETRIES = 2", "RETRIES = 0"))
    done = make_run(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "error: train-images-idx3-ubyte.gz: expected MNIST's file at a mirror" in done.stderr
    assert "MNIST cannot be had: running on scikit-learn's 1,797 digits instead" in done.stdout
    metrics = json.loads((project / "build/digits/metrics/metrics.json").read_text())
    assert metrics["total"] == 360
    assert f"{metrics['correct']:,} of 360 test images" in done.stdout
    for path in ("models/mnist_cnn.pt", "models/model_card.md", "metrics/misclassified.png"):
        assert (project / "build/digits" / path).is_file()
    assert git(project, "status", "--porcelain") == f" M params.yaml\n M {code}\n"


def test_a_failing_run_says_why_and_ends_with_dvcs_status(project):
    """A stage's one line and no summary; an unknown data source is refused before any stage."""
    set_params(data={"source": "digits"}, runtime={"arithmetic": "fast"})  # as torch never loads
    done = make_run(project)
    assert done.returncode == 255
    assert "error: params.yaml: runtime.arithmetic: expected 'portable' or 'native'" in done.stderr
    assert "accuracy" not in done.stdout
    set_params(data={"source": "mnst"})  # which must not look like a missing mirror
    done = make_run(project)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: params.yaml: data.source: expected 'mnist' or 'digits'")


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
