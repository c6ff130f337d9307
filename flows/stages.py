"""One DVC stage as a child of this process: its output line by line, its end with ours."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")


class StageError(Exception):
    """A stage that ended with another status than 0."""


def run_stage(stage: str, folder: Path, flags: list[str], say: Callable[[str], None]) -> bool:
    """Run a DVC stage in a process group of its own; whether there was anything to do.

    Raises StageError with its last line. If this process is cancelled, the group ends first.
    """
    command = ["dvc", "repro", "--single-item", *flags, stage]
    worked, last = False, ""
    with subprocess.Popen(
        [sys.executable, str(LEASH), str(os.getpid()), *command],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                last = line.strip() or last
                worked = worked or line.startswith(f"Running stage '{stage}'")
                say(line.rstrip())
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        raise StageError(f"{stage}: expected exit status 0, found {process.returncode}: {last}")
    return worked
