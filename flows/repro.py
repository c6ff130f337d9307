"""Run DVC as a child process, which hands on each line of output and ends when we end."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from dvc.config import Config
from dvc.config_schema import RelPath

from mnist_pipeline.files import InputError
from mnist_pipeline.leash import leashed

ADVERT = "Having any troubles?"  # dvc says this after the reason why it failed
# What a stage or dvc says if another attempt would fail as well. Another attempt may help if one of
# these is its reason, and after a signal, whose status is negative.
PASSING = "dvc repro goes on|at a mirror, found none|another training does the same"
OWN_FAULT = re.compile(rf"error: (?!.*({PASSING}))|.*exited with \d")


def run_stage(stage: str, folder: Path, flags: list[str], say: Callable[[str], None]) -> bool:
    """Run a DVC stage in a process group of its own; returns whether there was anything to do.

    `say` gets each line. Raises InputError if the stage itself is at fault, and RuntimeError if,
    for example, it was killed or a mirror is away. The message is the line in which the stage says
    why, or else its last line. If this process is interrupted, the group is killed first.
    """
    worked, last, why = False, "", ""
    with subprocess.Popen(
        leashed("dvc", "repro", "--single-item", *flags, stage),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                last = line.partition(ADVERT)[0].strip() or last
                why = last if line.startswith("error: ") else why
                worked = worked or line.startswith(f"Running stage '{stage}'")
                say(line.rstrip())
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode != 0:
        why = why or last
        raise InputError(why) if OWN_FAULT.match(why) else RuntimeError(why)
    return worked


def run_dvc(folder: Path, *words: str) -> str:
    """Run dvc; returns what it printed. Raises InputError with dvc's first error if it fails."""
    done = subprocess.run(["dvc", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).partition(ADVERT)[0].strip().splitlines()
        why = next((line for line in lines if line.startswith("ERROR: ")), "".join(lines[-1:]))
        raise InputError(f"dvc {words[0]}: {why}")
    return done.stdout


def has_remote(folder: Path) -> bool:
    """Whether a clone's data can be pushed and pulled: it has a default DVC remote.

    InputError for a folder that is named relative to the checkout: the clone would use another one.
    """
    config = Config(str(folder / ".dvc"))
    name = config["core"].get("remote")
    if isinstance(config["remote"].get(name, {}).get("url"), RelPath):
        what = "expected an address or an absolute path, found a relative one"
        raise InputError(f"DVC remote {name}: {what}")
    return name is not None


def require_remote(folder: Path) -> None:
    """Raises InputError if a clone's data cannot be pushed."""
    if not has_remote(folder):
        raise InputError("publish: expected a default DVC remote for the data, found none")
