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
from conftest import EPOCHS, dvc, processes_in, set_params
from service import wait_until

from mnist_pipeline.parallel import SHARED

INT, TERM, KILL, STOP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP
SECOND, THIRD = "Train Epoch: 2 [", "Train Epoch: 3 ["
ON = "dvc repro goes on after the last epoch"
ENDED = f"error: train: process {{}} of 2 ended with exit status -9; {ON}"
LOST = f"error: train: another process .* is gone or does not answer; {ON}"


class Strike(NamedTuple):
    """A signal to a dvc repro at work."""

    number: signal.Signals
    target: str  # dvc, its stage, a process of the training by its rank, or the whole group
    line: str  # of output, after which it comes
    epochs: int  # done by then
    processes: int = 1  # of the training
    says: str = ""  # what two processes say at their end

    def __str__(self) -> str:
        """The test's name."""
        many = f" of {self.processes} processes" if self.processes > 1 else ""
        return f"{self.number.name} to {self.target}{many} at {self.line}"


QUICK = [Strike(KILL, "1", SECOND, 1, 2, ENDED.format(1)), Strike(KILL, "dvc", THIRD, 2)]
SLOW = [
    Strike(KILL, "0", THIRD, 2, 2, ENDED.format(0)),
    Strike(STOP, "1", THIRD, 2, 2, LOST),
    Strike(STOP, "0", THIRD, 2, 2, LOST),
    Strike(TERM, "stage", THIRD, 2, 2),
    Strike(KILL, "stage", THIRD, 2, 2),
    Strike(KILL, "dvc", THIRD, 2, 2),
    Strike(INT, "group", THIRD, 2, 2, "interrupted"),
    Strike(INT, "group", THIRD, 2),
    Strike(INT, "group", "Running stage 'download'", 0),
    Strike(INT, "group", "Running stage 'evaluate'", 0),
    Strike(TERM, "dvc", "Running stage 'train'", 0),
    Strike(TERM, "dvc", "Running stage 'save'", 0),
    Strike(TERM, "stage", SECOND, 1),
    Strike(KILL, "dvc", "Running stage 'download'", 0),
    Strike(KILL, "stage", "Train Epoch: 1 [", 0),
    Strike(KILL, "stage", "Running stage 'evaluate'", 0),
]


def family(dvc: int, processes: int) -> dict[str, psutil.Process]:
    """The stage that a dvc runs, which starts a moment after dvc's line, and its processes."""
    wanted = {"stage", *(map(str, range(processes)) if processes > 1 else ())}
    for _ in range(1000):
        children = psutil.Process(dvc).children(recursive=True)
        ours = [each for each in children if "mnist_pipeline" in each.cmdline()]
        found = {each.environ().get("RANK", "stage"): each for each in ours}
        if found.keys() == wanted:
            return found
        time.sleep(0.01)
    raise AssertionError(f"expected {wanted}, found {found}")


def send(process: subprocess.Popen[str], strike: Strike) -> None:
    """Send the signal."""
    training = strike.line.startswith("Train")
    if training or strike.target == "stage":
        found = family(process.pid, strike.processes)
    if training:  # a shell between the two would swallow signals
        assert found["stage"].ppid() == process.pid
    if strike.processes > 1:
        assert SHARED in found["1"].environ()
    if strike.target == "group":
        os.killpg(process.pid, strike.number)
    elif strike.target == "dvc":
        os.kill(process.pid, strike.number)
    else:
        found[strike.target].send_signal(strike.number)


def end(folder: Path, strike: Strike) -> str:
    """Start dvc repro, wait for the line, send the signal; then neither dvc nor a stage is left.

    Two processes say why they end, in one line, and leave no temporary file but a folder that torch
    makes for its compiler. Returns what was printed, up to the line.
    """
    set_params(folder, machine={"processes": strike.processes})
    (temporary := folder.with_name("temporary")).mkdir(exist_ok=True)
    said, training = "", strike.line.startswith("Train")
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        # On Debian, this shell stays between dvc and a command.
        env=os.environ | {"SHELL": "/bin/sh", "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        while strike.line not in said:
            said += process.stdout.readline() or pytest.fail(f"{strike.line} never came")
        send(process, strike)
        start = time.monotonic()
        assert process.wait() != 0
        # A stage left alone would go on to its end.
        wait_until(lambda: not processes_in(folder), 30 if training else 2, "all have ended")
        assert time.monotonic() - start < 60  # no measure of speed: the promise itself
        assert not (training and (folder / "metrics/history.csv").exists())
        if strike.processes > 1:
            last = [line for line in process.stdout if line.startswith(("error:", "interrupted"))]
            assert len(last) == bool(strike.says)
            assert re.match(strike.says, "".join(last))
    if strike.says:
        assert all(path.name.startswith("torchinductor") for path in temporary.iterdir())
    return said


@pytest.mark.parametrize(
    "strikes",
    [QUICK, *(pytest.param([each], marks=pytest.mark.slow) for each in SLOW)],
    ids=lambda strikes: ", ".join(map(str, strikes)),
)
def test_one_command_recovers(tmp_path, project, undisturbed, strikes):
    """No process is left, dvc repro goes on from the last epoch, every hash is the same.

    The same as in a run in another clone, with another number of threads and processes.
    """
    folder = shutil.copytree(project, tmp_path / "project")
    _, *others = [end(folder, each) for each in strikes]
    assert all("Resumed after epoch" in said for said in others)
    set_params(folder, machine={"processes": 1})
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout
    resumed = re.search(rf"Resumed after epoch (\d+) of {EPOCHS}", done.stdout)
    # On a busy machine the signal may come an epoch later.
    assert int(resumed[1] if resumed else 0) >= strikes[-1].epochs
    assert (folder / "dvc.lock").read_text() == (undisturbed / "dvc.lock").read_text()
