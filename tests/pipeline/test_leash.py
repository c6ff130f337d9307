"""A command on a leash ends when the process that holds it is gone."""

import subprocess
import sys
import time

import psutil
import pytest

from mnist_pipeline.leash import leashed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the leash is the kernel's")

HOLDER = """
import subprocess, sys
from mnist_pipeline.leash import leashed
process = subprocess.Popen(leashed("sleep", "60"))
print(process.pid, flush=True)
input()
"""


def test_a_killed_holder_takes_its_command_along():
    """After SIGKILL, which the holder cannot handle, the kernel ends the command."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        child = psutil.Process(int(holder.stdout.readline()))
        while child.name() != "sleep":  # the leash is taken before the command begins
            time.sleep(0.01)
        holder.kill()
    child.wait(timeout=10)


def test_a_command_whose_starter_is_gone_never_starts():
    """The leash asks who its parent is after it was taken."""
    _, *words = leashed("echo", "started")
    words[words.index(str(psutil.Process().pid))] = "1"  # a starter that is not the parent
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stdout == ""
