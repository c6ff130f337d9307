"""Signals, at any moment: the next dvc repro ends as if nothing had happened."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from conftest import copy_of_project, dvc
from ruamel.yaml import YAML

from mnist_pipeline.audit import hashes

EPOCHS = 4
INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL


class Case(NamedTuple):
    """What is sent to whom, and after which line of output."""

    signal: signal.Signals
    target: str  # group, dvc or stage
    stage: str
    line: str
    done: int = 0  # epochs finished by then, at least

    def __str__(self) -> str:
        return f"{self.signal.name} to {self.target} in {self.stage}, {self.done} epochs done"


def start(stage: str) -> str:
    """The line with which dvc starts a stage."""
    return f"Running stage '{stage}'"


CASES = [
    Case(KILL, "dvc", "train", "Train Epoch: 3 [", done=2),
    Case(INT, "group", "train", "Train Epoch: 2 [", done=1),
    Case(INT, "group", "download", start("download")),
    Case(INT, "group", "evaluate", start("evaluate"), done=EPOCHS),
    Case(TERM, "dvc", "train", start("train")),
    Case(TERM, "dvc", "save", start("save"), done=EPOCHS),
    Case(TERM, "stage", "train", "Train Epoch: 2 [", done=1),
    Case(TERM, "stage", "train", "Train Epoch: 4 [", done=3),
    Case(KILL, "dvc", "download", start("download")),
    Case(KILL, "dvc", "train", "Train Epoch: 4 [", done=3),
    Case(KILL, "stage", "train", "Train Epoch: 1 ["),
    Case(KILL, "stage", "evaluate", start("evaluate"), done=EPOCHS),
]
QUICK = 2  # the first ones, in every run of the tests


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project on the digits, with a few epochs; nothing run yet."""
    folder = copy_of_project(tmp_path_factory.mktemp("project"))
    yaml, path = YAML(), folder / "params.yaml"
    tree = yaml.load(path)
    tree["data"]["source"] = "digits"
    tree["train"]["epochs"] = EPOCHS
    tree["save"]["min_accuracy"] = 0.0
    yaml.dump(tree, path)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the project's outputs are when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "project"
    shutil.copytree(project, folder)
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout
    return hashes(folder)


def left_over(folder: Path) -> list[psutil.Process]:
    """Processes that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:  # gone meanwhile, a zombie, or not ours to ask
            pass
    return found


def strike(folder: Path, case: Case) -> None:
    """Start dvc repro, wait for the case's line, send its signal, wait until dvc is gone."""
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        for line in process.stdout:
            if case.line in line:
                break
        else:
            pytest.fail(f"{case.line} never came")
        if case.target == "group":
            os.killpg(process.pid, case.signal)
        elif case.target == "dvc":
            os.kill(process.pid, case.signal)
        else:
            os.kill(stage_of(process.pid), case.signal)
        process.communicate()
    assert process.returncode != 0


def stage_of(dvc: int) -> int:
    """The process id of the stage that a dvc runs; it starts a moment after dvc's line."""
    for _ in range(1000):
        for child in psutil.Process(dvc).children(recursive=True):
            if any("mnist_pipeline." in word for word in child.cmdline()):
                return child.pid
        time.sleep(0.01)
    raise AssertionError("no stage started")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=str(case), marks=[pytest.mark.slow] if number >= QUICK else [])
        for number, case in enumerate(CASES)
    ],
)
def test_one_command_recovers(tmp_path, project, uninterrupted, case):
    """No process is left, dvc repro goes on from the last epoch, every hash is the same."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    strike(folder, case)
    for _ in range(100):  # the kernel ends the stage as soon as dvc is gone, or nearly so
        if not (alive := left_over(folder)):
            break
        time.sleep(0.1)
    assert not alive
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout
    resumed = re.search(rf"Resumed after epoch (\d+) of {EPOCHS}", done.stdout)
    if case.stage == "train":  # on a busy machine the signal may come an epoch later
        assert int(resumed[1] if resumed else 0) >= case.done
    else:
        assert resumed is None
    assert hashes(folder) == uninterrupted


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_no_shell_stays_between_dvc_and_its_stage(tmp_path, project, shell):
    """Signals to dvc's child reach the stage: the shell that dvc starts replaces itself."""
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    with subprocess.Popen(
        ["dvc", "repro", "download"],
        cwd=folder,
        env=os.environ | {"SHELL": shell},
        stdout=subprocess.DEVNULL,
    ) as process:
        stage = psutil.Process(stage_of(process.pid))
        assert stage.ppid() == process.pid
