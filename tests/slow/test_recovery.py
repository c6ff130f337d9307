"""Signals, at any moment: the next dvc repro ends as if nothing had happened."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from conftest import EPOCHS, dvc, processes_in
from service import wait_until

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL

CASES = [  # signal, its target, the line of output after which it comes, epochs done by then
    (KILL, "dvc", "Train Epoch: 2 [", 1),
    (INT, "group", "Train Epoch: 3 [", 2),
    (INT, "group", "Running stage 'download'", 0),
    (INT, "group", "Running stage 'evaluate'", 0),
    (TERM, "dvc", "Running stage 'train'", 0),
    (TERM, "dvc", "Running stage 'save'", 0),
    (TERM, "stage", "Train Epoch: 2 [", 1),
    (KILL, "dvc", "Running stage 'download'", 0),
    (KILL, "stage", "Train Epoch: 1 [", 0),
    (KILL, "stage", "Running stage 'evaluate'", 0),
]
QUICK, SLOW = CASES[:2], [[case] for case in CASES[2:]]


def stage_of(dvc: int) -> psutil.Process:
    """The stage that a dvc runs; it starts a moment after dvc's line."""
    for _ in range(1000):
        for child in psutil.Process(dvc).children(recursive=True):
            if "mnist_pipeline" in child.cmdline():
                return child
        time.sleep(0.01)
    raise AssertionError("no stage started")


def strike(folder: Path, number: signal.Signals, target: str, line: str) -> str:
    """Start dvc repro, wait for the line, send the signal; then neither dvc nor a stage is left.

    Returns what was printed, up to that line.
    """
    said = ""
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=os.environ | {"SHELL": "/bin/sh"},  # on Debian, it stays between dvc and a command
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        while line not in said:
            said += process.stdout.readline() or pytest.fail(f"{line} never came")
        if line.startswith("Train"):  # a shell between the two would swallow signals
            assert stage_of(process.pid).ppid() == process.pid
        if target == "group":
            os.killpg(process.pid, number)
        elif target == "dvc":
            os.kill(process.pid, number)
        else:
            stage_of(process.pid).send_signal(number)
        assert process.wait() != 0
        # A stage left alone would go on to its end.
        training = line.startswith("Train")
        wait_until(lambda: not processes_in(folder), 30 if training else 2, "all have ended")
        assert not (training and (folder / "metrics/history.csv").exists())
    return said


@pytest.mark.parametrize(
    "strikes",
    [QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: ", ".join(f"{each[0].name} to {each[1]} at {each[2]}" for each in case),
)
def test_one_command_recovers(tmp_path, project, undisturbed, strikes):
    """No process is left, dvc repro goes on from the last epoch, every hash is the same.

    The same as in a run in another clone, with another number of threads.
    """
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    _, *others = [strike(folder, *each[:3]) for each in strikes]
    assert all("Resumed after epoch" in said for said in others)
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout
    resumed = re.search(rf"Resumed after epoch (\d+) of {EPOCHS}", done.stdout)
    # On a busy machine the signal may come an epoch later.
    assert int(resumed[1] if resumed else 0) >= strikes[-1][3]
    assert (folder / "dvc.lock").read_text() == (undisturbed / "dvc.lock").read_text()
