"""dvc.yaml agrees with the source on what each stage runs with, reads and writes."""

import ast
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, git
from ruamel.yaml import YAML

from mnist_pipeline.__main__ import COMPUTING
from mnist_pipeline.files import NEW_TEST, NEW_TRAIN
from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS

PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = [*PIPELINE["stages"]]


def outputs(stage: str, kinds: tuple[str, ...] = ("outs", "metrics", "plots")) -> dict[str, Any]:
    """Paths of a stage's outputs → their options."""
    found = [entry for kind in kinds for entry in PIPELINE["stages"][stage].get(kind, [])]
    return {path: options for entry in found for path, options in entry.items()}


def closure_files(stage: str) -> set[str]:
    """The files that a stage runs with: __main__, itself, and what these import.

    __main__ itself imports arithmetic for the stages that compute, and for no other.
    """
    without = [] if stage in COMPUTING else ["mnist_pipeline.arithmetic"]
    finder = ModuleFinder([str(ROOT / "src")], excludes=without)
    for name in ("__main__", stage):
        finder.import_hook(f"mnist_pipeline.{name}")
    found = (module.__file__ for module in finder.modules.values())
    return {str(Path(file).relative_to(ROOT)) for file in found if file}


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
    """A stage depends on each module it runs with, and on no other. None is another stage."""
    deps = {dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("src/")}
    missing, needless = closure_files(stage) - deps, deps - closure_files(stage)
    assert not missing, f"dvc.yaml: {stage}: deps lack what it imports: {sorted(missing)}"
    assert not needless, f"dvc.yaml: {stage}: deps name what it never imports: {sorted(needless)}"
    others = {f"src/mnist_pipeline/{name}.py" for name in STAGES if name != stage}
    assert closure_files(stage).isdisjoint(others)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_loaded(stage):
    """A stage depends on each section it loads, but for those that change no result."""
    free = {"log", "machine"}
    assert set(PIPELINE["stages"][stage]["params"]) == sections_loaded(stage) - free


def test_no_stage_reads_data_it_does_not_need():
    """New test data reruns no training, and new training data by itself reruns no test."""
    read = {
        stage: [dep for dep in PIPELINE["stages"][stage]["deps"] if dep.startswith("data/")]
        for stage in STAGES
    }
    training = [str(path) for path in (TRAIN_IMAGES, TRAIN_LABELS, NEW_TRAIN)]
    testing = [str(path) for path in (TEST_IMAGES, TEST_LABELS, NEW_TEST)]
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


def test_answers_are_drawn_as_confusions():
    """Without a template, DVC would draw lines."""
    plots = outputs("evaluate", kinds=("plots",))
    templates = {path: options.get("template") for path, options in plots.items()}
    assert templates["metrics/errors.csv"] == templates["metrics/new.csv"] == "confusion"


def test_two_results_are_never_merged_line_by_line():
    """Nobody has computed such a result: git reports a conflict, and dvc repro resolves it."""
    assert git(ROOT, "check-attr", "merge", "dvc.lock") == "dvc.lock: merge: unset\n"
