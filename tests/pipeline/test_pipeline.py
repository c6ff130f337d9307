"""The pipeline as a whole: what reruns, what dvc.yaml says, and the real thing on the digits."""

import ast
import gzip
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.classic import Net
from conftest import ROOT, copy_of_project, dvc, fresh_copy, git, make_run, set_params
from ruamel.yaml import YAML

from mnist_pipeline.__main__ import COMPUTING
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import NEW_TEST, NEW_TRAIN, write_atomically
from mnist_pipeline.new_images import encode, place, read_new

STAGES = ["download", "train", "evaluate", "save"]  # each one needs what the one before it wrote
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
RAW = "data/MNIST/raw/"
TRAINING_DATA = [RAW + "train-images-idx3-ubyte.gz", RAW + "train-labels-idx1-ubyte.gz"]
TEST_DATA = [RAW + "t10k-images-idx3-ubyte.gz", RAW + "t10k-labels-idx1-ubyte.gz"]


# dvc.yaml against the source


def outputs(stage: str, kinds: tuple[str, ...] = ("outs", "metrics", "plots")) -> dict[str, Any]:
    """Paths of a stage's outputs → their options."""
    found: dict[str, Any] = {}
    for kind in kinds:
        for entry in PIPELINE["stages"][stage].get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found


def modules() -> dict[str, str]:
    """Dotted names of the package's modules → their paths."""
    names = {}
    for path in (ROOT / "src/mnist_pipeline").rglob("*.py"):
        source = path.relative_to(ROOT)
        parts = source.relative_to("src").with_suffix("").parts
        names[".".join(parts).removesuffix(".__init__")] = str(source)
    return names


def imports(module: str) -> set[str]:
    """Modules of the package which a module imports itself, wherever in it, in any form."""
    known = modules()
    package = module if known[module].endswith("__init__.py") else module.rpartition(".")[0]
    names = {package}
    for node in ast.walk(ast.parse((ROOT / known[module]).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package)
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names & known.keys()


def closure(stage: str) -> set[str]:
    """Modules that a stage runs with: __main__, itself, and what these import.

    __main__ itself imports arithmetic for the stages that compute, and for no other.
    """
    found: set[str] = set() if stage in COMPUTING else {"mnist_pipeline.arithmetic"}
    others = set(found)
    new = {"mnist_pipeline.__main__", f"mnist_pipeline.{stage}"}
    while new:
        found |= new
        new = set().union(*map(imports, new)) - found
    return found - others


def closure_files(stage: str) -> set[str]:
    """The files of a stage's modules."""
    return {modules()[name] for name in closure(stage)}


def sections_loaded(stage: str) -> set[str]:
    """Sections of params.yaml that a stage's modules ask load_params for."""
    return {
        ast.literal_eval(node.args[0])
        for path in closure_files(stage)
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "load_params"
    }


@pytest.mark.parametrize("stage", STAGES)
def test_source_deps_are_the_import_closure(stage):
    """A stage depends on each module it runs with, and on no other; another stage is none."""
    deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("src/")}
    missing, needless = closure_files(stage) - deps, deps - closure_files(stage)
    assert not missing, f"dvc.yaml: {stage}: deps lack what it imports: {sorted(missing)}"
    assert not needless, f"dvc.yaml: {stage}: deps name what it never imports: {sorted(needless)}"
    assert closure(stage).isdisjoint(f"mnist_pipeline.{name}" for name in STAGES if name != stage)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_loaded(stage):
    """A stage depends on each section it loads, but for those that change no result."""
    free = {"log", "machine"}
    assert set(PIPELINE["stages"][stage]["params"]) == sections_loaded(stage) - free


def test_no_stage_reads_data_it_does_not_need():
    """New test data trains nothing anew, and new training data alone tests nothing anew."""
    read = {
        stage: [dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("data/")]
        for stage in STAGES
    }
    training, testing = [*TRAINING_DATA, str(NEW_TRAIN)], [*TEST_DATA, str(NEW_TEST)]
    assert read == {"download": [], "train": training, "evaluate": testing, "save": []}


@pytest.mark.parametrize("stage", STAGES)
def test_cmd_is_one_simple_command(stage):
    """Every stage runs this checkout's code, with no shell left between dvc and python."""
    expected = f"exec env PYTHONPATH=src python -m mnist_pipeline {stage}"
    assert PIPELINE["stages"][stage]["cmd"] == expected


@pytest.mark.parametrize("stage", STAGES)
def test_metrics_alone_are_in_git_and_nothing_switches_the_run_cache_off(stage):
    """No persist, no always_changed; cache: false for metrics and plots, which lie in metrics/."""
    assert not PIPELINE["stages"][stage].get("always_changed")
    in_git = outputs(stage, kinds=("metrics", "plots"))
    for path, options in outputs(stage).items():
        assert not options.get("persist"), path
        assert (options.get("cache") is False) == (path in in_git), path
    assert all(path.startswith("metrics/") for path in in_git)


# The real thing, on the digits


def shrink_test_set(repo: Path) -> None:
    """Change the code: 350 of the embedded digits for testing, not 360."""
    path = repo / "src/mnist_pipeline/digits.py"
    assert path.read_text().count("TEST_SIZE = 360") == 1
    path.write_text(path.read_text().replace("TEST_SIZE = 360", "TEST_SIZE = 350"))


def test_every_output_is_locked(undisturbed):
    """dvc.lock has each path of dvc.yaml; its hashes are compared where a run was killed."""
    stages = YAML(typ="safe").load(undisturbed / "dvc.lock")["stages"].items()
    found = {name: {out["path"] for out in stage["outs"]} for name, stage in stages}
    assert found == {stage: set(outputs(stage)) for stage in STAGES}


@pytest.mark.parametrize(
    ("section", "change", "stale"),
    [
        ("data", {"source": "mnist"}, {"download"}),
        ("runtime", {"arithmetic": "native"}, {"train", "evaluate"}),
        ("machine", {"threads": 3, "processes": 1}, set()),
        ("train", {"lr": 0.5}, {"train"}),
        ("evaluate", {"batch_size": 7}, {"evaluate"}),
        ("save", {"min_accuracy": 0.1}, {"save"}),
        ("log", {"interval": 1}, set()),
        ("app", {"spool": 1}, set()),
    ],
)
def test_a_changed_parameter_reruns(undisturbed, section, change, stale):
    """A parameter reruns the stages that its section concerns first, and no other."""
    before = (undisturbed / "params.yaml").read_bytes()
    set_params(undisturbed, **{section: change})
    found = json.loads(dvc(undisturbed, "status", "--json").stdout)
    (undisturbed / "params.yaml").write_bytes(before)
    assert found.keys() == stale


@pytest.mark.parametrize(("folder", "stale"), [(NEW_TRAIN, {"train"}), (NEW_TEST, {"evaluate"})])
def test_a_new_picture_reruns(undisturbed, folder, stale):
    """One to train with concerns train first, one to test with evaluate, and no other stage."""
    images = (np.full((28, 28), grey, np.uint8) for grey in range(256))
    image = next(each for each in images if place(each, 1).parent == folder)
    path = undisturbed / place(image, 1)
    path.write_bytes(encode(image))
    found = json.loads(dvc(undisturbed, "status", "--json").stdout)
    path.unlink()
    assert found.keys() == stale


def test_pictures_of_two_branches_merge(tmp_path):
    """By plain git, without a conflict, and each is what a stage may read."""
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
    images, labels = read_pairs(*(undisturbed / name for name in TEST_DATA))
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
    """Where the data can be had: in the checkout, and only what has changed runs."""
    repo = shutil.copytree(undisturbed, tmp_path / "repo")
    set_params(repo, evaluate={"batch_size": 90}, save={"min_accuracy": 0.1})
    done = make_run(repo)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [stage for stage in STAGES if f"Running stage '{stage}'" in done.stdout]
    assert ran == ["evaluate", "save"]
    metrics = json.loads((repo / "metrics/metrics.json").read_text())
    assert f"accuracy  {metrics['accuracy']:.2%} ({metrics['correct']} of 360 " in done.stdout
    assert "model     models/mnist_cnn.pt, described in models/model_card.md" in done.stdout
    assert not (repo / "build").exists()


# A checkout's own code, though another checkout is the one installed


@pytest.fixture
def edited(tmp_path: Path) -> Path:
    """A copy of the project with a committed change to the code."""
    repo = fresh_copy(tmp_path / "edited")
    shrink_test_set(repo)
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--message=350 test images")
    return repo


def count_labels(path: Path) -> int:
    """How many labels an IDX file holds, by its header."""
    return int.from_bytes(gzip.decompress(path.read_bytes())[4:8], "big")


def test_a_worktree_runs_its_own_code(edited, tmp_path):
    """Not that of the checkout which the environment was installed for."""
    git(edited, "worktree", "add", "--quiet", str(tmp_path / "other"))
    set_params(tmp_path / "other", data={"source": "digits"})
    result = dvc(tmp_path / "other", "repro", "download")
    assert result.returncode == 0, result.stdout
    assert count_labels(tmp_path / "other" / TEST_DATA[1]) == 350


def test_an_experiment_runs_its_own_code(edited):
    """dvc exp run --temp runs the commit's code, and leaves the checkout as it was."""
    result = dvc(
        edited, "exp", "run", "--temp", "-n", "own", "-S", "data.source=digits", "download"
    )
    assert result.returncode == 0, result.stdout
    (ref,) = git(edited, "for-each-ref", "--format=%(refname)", "refs/exps/*/*/own").split()
    lock = YAML(typ="safe").load(git(edited, "show", f"{ref}:dvc.lock"))
    (out,) = [out for out in lock["stages"]["download"]["outs"] if out["path"] == TEST_DATA[1]]
    assert count_labels(edited / ".dvc/cache/files/md5" / out["md5"][:2] / out["md5"][2:]) == 350
    assert git(edited, "status", "--porcelain") == ""
