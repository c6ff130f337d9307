"""Machines that train together make the bytes of one; if one is lost, a line says so."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import dvc, set_params

pytestmark = pytest.mark.slow

LATE = "does not answer"
STAGE = ["-m", "mnist_pipeline", "train"]


@pytest.fixture
def machines() -> Iterator[dict[str, str]]:
    """Two machines as network namespaces, joined by a cable: name and address of each."""
    names = [f"mnist-{os.getpid()}-{number}" for number in (0, 1)]

    def ip(words: str) -> None:
        subprocess.run(["ip", *words.split()], check=True, capture_output=True)

    try:
        for name in names:
            ip(f"netns add {name}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need root and ip, of iproute2")
    ip(f"link add cable netns {names[0]} type veth peer cable netns {names[1]}")
    for number, name in enumerate(names):
        ip(f"-n {name} addr add 10.77.0.{number + 1}/24 dev cable")
        for device in ("lo", "cable"):
            ip(f"-n {name} link set {device} up")
    yield {name: f"10.77.0.{number + 1}" for number, name in enumerate(names)}
    for name in names:
        ip(f"netns del {name}")


@pytest.fixture
def clones(tmp_path: Path, project: Path) -> list[Path]:
    """A clone for each machine; the second one has the data, as the documents ask for."""
    folders = [shutil.copytree(project, tmp_path / str(number)) for number in (0, 1)]
    assert dvc(folders[1], "repro", "download").returncode == 0
    return folders


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


def by_variables(
    machines: dict[str, str], clones: list[Path], ranks: tuple[int, ...] = (0, 1)
) -> list[subprocess.Popen[str]]:
    """The training on these machines, told of their place by variables."""
    names, address = list(machines), next(iter(machines.values()))
    first = {"WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": "29500"}
    commands = [["dvc", "repro"], [sys.executable, *STAGE]]
    return [
        start(names[rank], clones[rank], *commands[rank], RANK=str(rank), **first) for rank in ranks
    ]


def by_torchrun(machines: dict[str, str], clones: list[Path]) -> list[subprocess.Popen[str]]:
    """The two commands of docs/reproducibility.md."""
    names, address = list(machines), next(iter(machines.values()))
    options = ["--nnodes=2", "--nproc-per-node=1", f"--master-addr={address}"]
    torchrun = ["torchrun", *options, "--master-port=29500"]
    return [
        start(names[0], clones[0], *torchrun, "--node-rank=0", "--no-python", "dvc", "repro"),
        start(names[1], clones[1], *torchrun, "--node-rank=1", *STAGE),
    ]


@pytest.mark.parametrize("start_both", [by_variables, by_torchrun])
def test_two_machines_make_the_bytes_of_one(undisturbed, machines, clones, start_both):
    """Only the first machine writes."""
    both = start_both(machines, clones)
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (clones[0] / "dvc.lock").read_text() == (undisturbed / "dvc.lock").read_text()
    assert not (clones[1] / "models/weights.safetensors").exists()


@pytest.mark.parametrize("case", ["other parameters", "no second", "no first", "cut"])
def test_what_keeps_two_machines_apart(undisturbed, machines, clones, case):
    """One line says so within a minute; the next dvc repro goes on alone, to the same bytes."""
    if case == "other parameters":
        set_params(clones[1], train={"lr": 0.5})
    started = {"no second": (0,), "no first": (1,)}.get(case, (0, 1))
    both = by_variables(machines, clones, started)
    if case == "cut":
        assert any(line.startswith("Train Epoch: 2 [") for line in both[0].stdout)
        cable = ["ip", "-n", next(iter(machines)), "link", "set", "cable", "down"]
        subprocess.run(cable, check=True)
    begin = time.monotonic()
    said = [process.communicate()[0] for process in both]
    assert time.monotonic() - begin < 90  # with the imports of a busy machine
    assert all(process.returncode for process in both), said
    who, reason = (1, "process 1: expected the code") if case == "other parameters" else (0, LATE)
    errors = [line for line in said[who].splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    assert reason in errors[0]
    assert "frame #" not in "".join(said)  # a backtrace of torch's
    assert dvc(clones[0], "repro").returncode == 0
    assert (clones[0] / "dvc.lock").read_text() == (undisturbed / "dvc.lock").read_text()
