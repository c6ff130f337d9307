"""Reproduce the committed dvc.lock and metrics/ from nothing, and say what is not equal."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mnist_pipeline.files import ENVIRONMENT, InputError, parse_json, read_text
from mnist_pipeline.leash import leashed
from mnist_pipeline.review.git import clone, data_files, git
from mnist_pipeline.review.result import LOCK

DIFF = ("diff", "--cached", "--no-color", "--no-ext-diff")


def main() -> None:
    """Audit this checkout's commit; exit status 1 where something is not equal."""
    warn_of_changes("the audit")
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-audit-") as name:
        # A cache of its own, as the checkout's would hold the outputs already.
        folder = clone(".", Path(name) / "clone", Path(name) / "cache")
        reproduce(folder, "repro", "--force")
        equal, text = differences(folder)
    print(text)
    sys.exit(0 if equal else 1)


def warn_of_changes(work: str) -> None:
    """Warn if the checkout has uncommitted changes, since the work uses only its commit."""
    if git(Path(), "status", "--porcelain", "--untracked-files=normal"):
        print(f"warning: uncommitted changes are not part of {work}", file=sys.stderr)


def reproduce(folder: Path, *words: str) -> None:
    """Run a clone's stages with `dvc repro` or `dvc exp run`; InputError where one fails.

    First it fetches data that dvc add or dvc import tracks. A result is computed on the CPU if its
    environment.json says that it was before.
    """
    environment = os.environ | {"DVC_EXP_AUTO_PUSH": "false"}  # not to the checkout
    if Path(mirror := environment.get("MNIST_MIRROR", "missing")).is_dir():
        environment["MNIST_MIRROR"] = str(Path(mirror).resolve())
    record = folder / ENVIRONMENT
    if record.exists() and parse_json(read_text(record), str(ENVIRONMENT)).get("device") == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # runtime.device: auto would take a GPU
    if data := data_files(folder):
        call_dvc(folder, environment, "pull", *data)
    call_dvc(folder, environment, *words)


def call_dvc(folder: Path, environment: dict[str, str], *words: str) -> None:
    """Run dvc in a folder; InputError if it fails, after dvc has said why."""
    command = leashed("dvc", *words)
    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if status != 0:
        raise InputError(f"dvc {words[0]}: expected success, found exit status {status}")


def differences(folder: Path) -> tuple[bool, str]:
    """Whether a clone's dvc.lock and metrics are those of its commit, and a text that says so."""
    what = (LOCK, str(ENVIRONMENT.parent))
    git(folder, "add", "--force", "--", *what)  # also what the commit lacks
    changed = git(folder, *DIFF, "--stat", "--", *what)
    if not changed:
        return True, f"Equal: {' and '.join(what)}/ have the bytes of the commit."
    details = git(folder, *DIFF, "--unified=2", "--", LOCK, str(ENVIRONMENT))
    return False, f"Not equal to the commit:\n\n{changed}\n{details}"
