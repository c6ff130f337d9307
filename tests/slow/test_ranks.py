"""Processes that train together: where one ends, all end with a line, and nothing is lost."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import EPOCHS, dvc, processes_in, set_params

INT, TERM, KILL, STOP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP
LOST = "dvc repro goes on after the last epoch"

CASES = [  # signal, its target (a rank, the stage that started the ranks, dvc), what is said
    (KILL, "1", f"error: train: process 1 of 2 ended with exit status -9; {LOST}"),
    (KILL, "0", f"error: train: process 0 of 2 ended with exit status -9; {LOST}"),
    (STOP, "1", f"error: train: another process .* is gone or does not answer; {LOST}"),
    (TERM, "stage", ""),
    (KILL, "stage", ""),
    (KILL, "dvc", ""),
    (INT, "group", "interrupted"),
]


def ranks_of(dvc: int) -> dict[str, psutil.Process]:
    """The stage that a dvc runs and the processes that it has started, by their rank."""
    found = psutil.Process(dvc).children(recursive=True)
    return {
        each.environ().get("RANK", "stage"): each
        for each in found
        if "mnist_pipeline" in each.cmdline()
    }


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[] if case in CASES[:1] else pytest.mark.slow) for case in CASES],
    ids=lambda case: f"{case[0].name} to {case[1]}",
)
def test_where_one_ends_all_end(tmp_path, project, undisturbed, case):
    """Within a minute, with one line; dvc repro goes on, and one process makes the same bytes."""
    number, target, says = case
    folder = shutil.copytree(project, tmp_path / "project")
    set_params(folder, machine={"processes": 2})
    with subprocess.Popen(
        ["dvc", "repro"],
        cwd=folder,
        env=os.environ | {"SHELL": "/bin/sh"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert any(line.startswith("Train Epoch: 3 [") for line in process.stdout)
        victims = {"dvc": psutil.Process(process.pid)} | ranks_of(process.pid)
        assert victims.keys() == {"dvc", "stage", "0", "1"}
        if target == "group":
            os.killpg(process.pid, number)
        else:
            victims[target].send_signal(number)
        start = time.monotonic()
        said = [line for line in process.stdout if line.startswith(("error:", "interrupted"))]
        assert process.wait() != 0
        psutil.wait_procs(processes_in(folder), timeout=10)
        assert processes_in(folder) == []
        assert time.monotonic() - start < 60  # no measure of speed: the promise itself
    assert len(said) == bool(says)
    assert re.match(says, "".join(said))
    set_params(folder, machine={"processes": 1})
    done = dvc(folder, "repro")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"Resumed after epoch [234] of {EPOCHS}", done.stdout)
    assert (folder / "dvc.lock").read_text() == undisturbed


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Two machines as network namespaces, joined by a cable: name and address of each."""
    names = [f"mnist-{os.getpid()}-{number}" for number in (0, 1)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need root and ip, of iproute2")
    ip(
        "link",
        "add",
        "cable",
        "netns",
        names[0],
        "type",
        "veth",
        "peer",
        "cable",
        "netns",
        names[1],
    )
    for number, name in enumerate(names):
        ip("-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", name, "link", "set", device, "up")
    yield {name: f"10.77.0.{number + 1}" for number, name in enumerate(names)}
    for name in names:
        ip("netns", "del", name)


def start(machine: str, folder: Path, *command: str, **environment: str) -> subprocess.Popen[str]:
    """A command on one of the machines."""
    return subprocess.Popen(
        ["ip", "netns", "exec", machine, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "src"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["together", "by torchrun", "other parameters", "nobody", "cut"])
def test_two_machines(tmp_path, project, undisturbed, machines, case):
    """They make the bytes of one; what keeps them from it is one line within a minute."""
    folders = [shutil.copytree(project, tmp_path / str(number)) for number in (0, 1)]
    assert dvc(folders[1], "repro", "download").returncode == 0
    names, address = list(machines), next(iter(machines.values()))
    if case == "other parameters":
        set_params(folders[1], train={"lr": 0.5})
    commands = [["dvc", "repro"], [sys.executable, "-m", "mnist_pipeline", "train"]]
    if case == "by torchrun":
        options = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={address}"]
        torchrun = ["torchrun", *options, "--master-port=29500"]
        commands[0] = [*torchrun, "--node-rank=0", "--no-python", *commands[0]]
        commands[1] = [*torchrun, "--node-rank=1", *commands[1][1:]]
    both = [
        start(
            names[rank],
            folders[rank],
            *commands[rank],
            **(
                {}
                if case == "by torchrun"
                else {
                    "RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": address,
                    "MASTER_PORT": "29500",
                }
            ),
        )
        for rank in range(1 if case == "nobody" else 2)
    ]
    begin = time.monotonic()
    if case == "cut":
        assert any(line.startswith("Train Epoch: 2 [") for line in both[0].stdout)
        subprocess.run(["ip", "-n", names[0], "link", "set", "cable", "down"], check=True)
        begin = time.monotonic()
    said = [process.communicate()[0] for process in both]
    status = [process.returncode for process in both]
    if case in ("together", "by torchrun"):
        assert status == [0, 0], said
        assert (folders[0] / "dvc.lock").read_text() == undisturbed
        assert not (folders[1] / "models/weights.safetensors").exists()
        return
    assert time.monotonic() - begin < 90  # with the imports of a busy machine
    assert all(status), said
    errors = [line for line in said[0].splitlines() if line.startswith("error: ")]
    if case == "other parameters":
        errors = [line for line in said[1].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    reason = "process 1: expected the code" if case == "other parameters" else "does not answer"
    assert reason in errors[0]
    assert dvc(folders[0], "repro").returncode == 0
    assert (folders[0] / "dvc.lock").read_text() == undisturbed
