"""The pipeline as a whole, on the digits: what reruns, and who can use the model."""

import json
import re
import shutil

import torch
from conftest import copy_of_project, dvc, dvc_repo, git, make_run
from test_dvc_yaml import STAGES

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import NEW_TRAIN, write_atomically
from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS

FAULTY = """'Fail.'
from mnist_pipeline.files import InputError
def main():
    raise InputError("boom")
"""


def test_the_classic_program_can_use_the_model(undisturbed):
    """mnist_cnn.pt is a plain state_dict; the classic network scores what metrics.json says."""
    from benchmarks import classic  # noqa: PLC0415 (torchvision takes seconds)

    state = torch.load(undisturbed / "models/mnist_cnn.pt", weights_only=True)
    net = classic.Net()
    net.load_state_dict(state)
    net.eval()
    assert {name.split(".")[0] for name in state} == {"conv1", "conv2", "fc1", "fc2"}
    metrics = json.loads((undisturbed / "metrics/metrics.json").read_text())
    paths = undisturbed / TEST_IMAGES, undisturbed / TEST_LABELS
    images, labels = map(torch.from_numpy, read_pairs(*paths))
    with torch.no_grad():
        predicted = net((images.unsqueeze(1) / 255 - 0.1307) / 0.3081).argmax(1)
    assert int((predicted == labels).sum()) == metrics["correct"]


def test_no_stage_loads_torchs_compiler(undisturbed):
    """Its import takes seconds, and torchvision's or that of torch's own optimisers loads it."""
    said = undisturbed.with_suffix(".log").read_text()
    assert re.search(r"^import time: .*\| +torch$", said, re.MULTILINE)
    assert not re.search(r"^import time: .*\| +(torch\._dynamo|torchvision)$", said, re.MULTILINE)


def test_dvc_draws_the_plots(undisturbed, tmp_path):
    """dvc plots show writes a page with every plot on it."""
    result = dvc(undisturbed, "plots", "show", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout
    assert "WARNING" not in result.stdout
    assert "ERROR" not in result.stdout
    page = (tmp_path / "index.html").read_text()
    for expected in ("Validation accuracy by epoch", "What is taken for what", "Losses by epoch"):
        assert expected in page
    assert "misclassified.png" in page


def test_make_run_is_dvc_repro_and_a_summary(undisturbed, tmp_path):
    """If the data can be had, it works in the checkout, and only what has changed runs.

    If a stage fails, its one line says why; there is no summary, and the status is dvc's.
    """
    repo = shutil.copytree(undisturbed, tmp_path / "repo")
    done = make_run(repo)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage" not in done.stdout
    metrics = json.loads((repo / "metrics/metrics.json").read_text())
    assert f"accuracy  {metrics['accuracy']:.2%} ({metrics['correct']} of 360 " in done.stdout
    assert "model     models/mnist_cnn.pt, described in models/model_card.md" in done.stdout
    (repo / "src/mnist_pipeline/save.py").write_text(FAULTY)
    done = make_run(repo)
    assert done.returncode == 255
    assert [each for each in STAGES if f"Running stage '{each}'" in done.stdout] == ["save"]
    assert "error: boom" in done.stderr
    assert "accuracy" not in done.stdout
    assert not (repo / "build").exists()


def test_data_of_ones_own_may_lie_in_data(tmp_path):
    """What dvc add tracks there, DVC finds by itself, to push or to check out; git has data/new."""
    folder = copy_of_project(tmp_path / "repo")
    write_atomically(folder / NEW_TRAIN / "own.png", b"")
    git(folder, "add", "data/new")  # fails for what is ignored
    write_atomically(folder / "data/raw/own.csv", b"1,2,3")
    with dvc_repo(folder) as repo:
        repo.add("data/raw/own.csv")
        (folder / "data/raw/own.csv").unlink()
        repo.checkout(allow_missing=True)  # the cache lacks what the stages write
    assert (folder / "data/raw/own.csv").read_bytes() == b"1,2,3"
