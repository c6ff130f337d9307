"""A DVC stage as a child: how it fails, and how it ends with the process that runs it."""

import signal
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT, processes_in
from flows.repro import run_stage
from service import small_repository

from mnist_pipeline import leash

# A stage that is on the leash of its dvc, as the project's stages are.
SLEEP = f"echo sleeping; exec {sys.executable} {leash.__file__} $PPID sleep 60"
FLOW = """
import pathlib, signal, sys
from flows.repro import run_stage
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # much as Prefect does
run_stage("evaluate", pathlib.Path(sys.argv[1]), [], lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("said", ["boom", "error: boom"])
def test_failing_stage_says_why(tmp_path, said):
    """In its own one line, or else in what dvc said last; every line was handed on."""
    small_repository(tmp_path)
    path = tmp_path / "seed/dvc.yaml"
    path.write_text(path.read_text().replace("echo boom >&2; exit 3", f'"echo {said} >&2; exit 3"'))
    lines: list[str] = []
    reason = said if said.startswith("error: ") else "ERROR: failed to reproduce 'evaluate'"
    with pytest.raises(RuntimeError, match=f"^{reason}"):
        run_stage("evaluate", tmp_path / "seed", [], lines.append)
    assert said in lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dvc_and_its_stage_end_with_the_flow(tmp_path, number):
    """At once where it is told to end, and even where no handler of its own sees the signal."""
    small_repository(tmp_path)
    (tmp_path / "seed/dvc.yaml").write_text(f"stages: {{evaluate: {{cmd: '{SLEEP}'}}}}")
    command = [sys.executable, "-c", FLOW, str(tmp_path / "seed")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as flow:
        assert any(line == "sleeping\n" for line in flow.stdout)
        children = psutil.Process(flow.pid).children(recursive=True)
        flow.send_signal(number)
        psutil.wait_procs(children, timeout=5)
        assert processes_in(tmp_path) == []
