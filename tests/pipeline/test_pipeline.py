"""The pipeline as a whole, on the digits: what reruns, who can use the model, whose code runs."""

import gzip
import json
import shutil

import numpy as np
import torch
from benchmarks.classic import Net
from conftest import copy_of_project, dvc, fresh_copy, git, make_run, set_params
from ruamel.yaml import YAML
from test_dvc_yaml import STAGES

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import NEW_TEST, NEW_TRAIN, write_atomically
from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS
from mnist_pipeline.new_images import encode, place, read_new


def test_pictures_of_two_branches_merge(tmp_path):
    """Plain git merges them without a conflict, and the stages can read each of them."""
    repo = copy_of_project(tmp_path)
    for branch, greys in (("one", range(20)), ("two", range(20, 40))):
        git(repo, "switch", "--quiet", "--create", branch, "main")
        for grey in greys:
            image = np.full((28, 28), grey, np.uint8)
            write_atomically(repo / place(image, grey % 10), encode(image))
        git(repo, "add", "data/new")
        git(repo, "commit", "--quiet", "--message=pictures")
    git(repo, "merge", "--quiet", "--no-edit", "one")
    assert sum(len(read_new(repo / folder)[0]) for folder in (NEW_TRAIN, NEW_TEST)) == 40


def test_the_classic_program_can_use_the_model(undisturbed):
    """mnist_cnn.pt is a plain state_dict; the classic network scores what metrics.json says."""
    state = torch.load(undisturbed / "models/mnist_cnn.pt", weights_only=True)
    net = Net()
    net.load_state_dict(state)
    net.eval()
    assert {name.split(".")[0] for name in state} == {"conv1", "conv2", "fc1", "fc2"}
    metrics = json.loads((undisturbed / "metrics/metrics.json").read_text())
    paths = undisturbed / TEST_IMAGES, undisturbed / TEST_LABELS
    images, labels = map(torch.from_numpy, read_pairs(*paths))
    with torch.no_grad():
        predicted = net((images.unsqueeze(1) / 255 - 0.1307) / 0.3081).argmax(1)
    assert int((predicted == labels).sum()) == metrics["correct"]


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
    """If the data can be had, it works in the checkout, and only what has changed runs."""
    repo = shutil.copytree(undisturbed, tmp_path / "repo")
    set_params(repo, save={"min_accuracy": 0.1})
    done = make_run(repo)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [stage for stage in STAGES if f"Running stage '{stage}'" in done.stdout]
    assert ran == ["save"]
    metrics = json.loads((repo / "metrics/metrics.json").read_text())
    assert f"accuracy  {metrics['accuracy']:.2%} ({metrics['correct']} of 360 " in done.stdout
    assert "model     models/mnist_cnn.pt, described in models/model_card.md" in done.stdout
    assert not (repo / "build").exists()


def test_data_of_ones_own_may_lie_in_data(tmp_path):
    """What dvc add tracks there, DVC finds by itself, to push or to check out."""
    repo = copy_of_project(tmp_path / "repo")
    write_atomically(repo / "data/raw/own.csv", b"1,2,3")
    assert dvc(repo, "add", "data/raw/own.csv").returncode == 0
    (repo / "data/raw/own.csv").unlink()
    dvc(repo, "checkout")  # the cache lacks what the stages write
    assert (repo / "data/raw/own.csv").read_bytes() == b"1,2,3"


# A checkout's own code, though another checkout is the one installed


def test_an_experiment_runs_its_own_code(tmp_path):
    """dvc exp run --temp works in another folder, and runs the code of its commit."""
    edited = fresh_copy(tmp_path)
    path = edited / "src/mnist_pipeline/digits.py"
    path.write_text(path.read_text().replace("TEST_SIZE = 360", "TEST_SIZE = 350"))
    git(edited, "commit", "--quiet", "--all", "--message=350 test images")
    words = ("exp", "run", "--temp", "-n", "own", "-S", "data.source=digits", "download")
    result = dvc(edited, *words)
    assert result.returncode == 0, result.stdout
    (ref,) = git(edited, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/own").split()
    lock = YAML(typ="safe").load(git(edited, "show", f"{ref}:dvc.lock"))
    (out,) = [out for out in lock["stages"]["download"]["outs"] if out["path"] == str(TEST_LABELS)]
    labels = edited / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]
    assert int.from_bytes(gzip.decompress(labels.read_bytes())[4:8], "big") == 350
    assert git(edited, "status", "--porcelain") == ""
