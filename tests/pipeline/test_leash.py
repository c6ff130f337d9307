"""A command on a leash ends when the process that holds it is gone."""

import subprocess
import sys

import psutil
import pytest

from mnist_pipeline.leash import leashed

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the leash is the kernel's")


def test_a_command_whose_starter_is_gone_never_starts():
    """Having taken the leash, leash.py checks that its parent is still the starter."""
    _, *words = leashed("echo", "started")
    words[words.index(str(psutil.Process().pid))] = "1"  # a starter that is not the parent
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    assert done.stdout == ""
