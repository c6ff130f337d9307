"""A DVC stage as a child: how it fails, and how it ends with the process that runs it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, processes_in
from flows.repro import OWN_FAULT, run_dvc, run_stage
from service import repository, wait_until

from mnist_pipeline import download, leash
from mnist_pipeline.files import InputError
from mnist_pipeline.mnist import TEST_LABELS

# A stage that is on the leash of its dvc, as the project's stages are.
SLEEP = f"echo sleeping; exec '{sys.executable}' '{leash.__file__}' $PPID sleep 60"
LOST = "error: train: a process is gone; dvc repro goes on"
BUSY = "error: train: another training does the same: wait for it"
FLOW = """
import pathlib, signal, sys
from flows.repro import run_stage
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # much as Prefect does
run_stage("evaluate", pathlib.Path(sys.argv[1]), [], lambda line: print(line, flush=True))
"""


def stage_that(folder: Path, runs: str) -> Path:
    """A repository with one stage, evaluate, that runs this command."""
    return repository(folder, {"dvc.yaml": json.dumps({"stages": {"evaluate": {"cmd": runs}}})})


@pytest.mark.parametrize(
    ("command", "fault", "why"),
    [
        ("echo boom >&2; exit 3", InputError, "ERROR: failed to reproduce 'evaluate'.* with 3$"),
        ("echo 'error: boom' >&2; exit 2", InputError, "error: boom$"),
        ("kill -9 $$", RuntimeError, "ERROR: failed to reproduce 'evaluate'.* with -9$"),
        (f"echo '{LOST}' >&2; exit 2", RuntimeError, f"{LOST}$"),
    ],
)
def test_failing_stage_says_why(tmp_path, command, fault, why):
    """With its own line, or else dvc's last one; the exception says if it would fail again."""
    folder = stage_that(tmp_path, command)
    lines: list[str] = []
    with pytest.raises(fault, match=f"^{why}") as error:
        run_stage("evaluate", folder, [], lines.append)
    assert str(error.value) in lines


def test_some_reasons_are_no_fault_of_the_stage(tmp_path):
    """A mirror may answer later, which download says here itself; another training may end."""
    with pytest.raises(InputError) as error:
        download.fetch(TEST_LABELS.name, tmp_path, [str(tmp_path / "nowhere")])
    assert not OWN_FAULT.match(f"error: {error.value}")
    assert not OWN_FAULT.match(BUSY)


def test_dvc_says_first_what_happened(tmp_path, monkeypatch):
    """Its last line only counts the files."""
    (tmp_path / "dvc").write_text(
        "#!/bin/sh\necho fetching\necho ERROR: file a: no route to host >&2\n"
        "echo ERROR: 2 files failed to upload >&2\nexit 1\n"
    )
    (tmp_path / "dvc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(InputError, match=r"^dvc push: ERROR: file a: no route to host$"):
        run_dvc(tmp_path, "push")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dvc_and_its_stage_end_with_the_flow(tmp_path, number):
    """At once, on SIGTERM, which the flow handles, and on SIGKILL, which it cannot handle."""
    stage_that(tmp_path, SLEEP)
    command = [sys.executable, "-c", FLOW, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as flow:
        assert any(line == "sleeping\n" for line in flow.stdout)
        flow.send_signal(number)
        wait_until(lambda: not processes_in(tmp_path), 30, "all have ended")
