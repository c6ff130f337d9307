"""Reproduce the committed dvc.lock and metrics/ from nothing, and say what is not equal."""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mnist_pipeline.files import ENVIRONMENT, InputError, parse_json, read_text
from mnist_pipeline.leash import leashed
from mnist_pipeline.review.git import clone, git
from mnist_pipeline.review.result import LOCK

SHORT = ("data.source=digits", "train.epochs=2", "save.min_accuracy=0")
# Of the files, not of what is staged: DVC stages what it writes where core.autostage is set.
DIFF = ("diff", "HEAD", "--no-color", "--no-ext-diff")


def main() -> None:
    """Audit this checkout's commit; exit status 1 where something is not equal."""
    parser = argparse.ArgumentParser(description="Reproduce this commit and compare every byte.")
    short = "audit a short run on the digits, which is made and committed elsewhere first"
    parser.add_argument("--short", action="store_true", help=short)
    options = parser.parse_args()
    warn_of_changes("the audit")
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-audit-") as name:
        source = short_run(Path(name) / "source") if options.short else Path()
        # A cache of its own, as the checkout's would hold the outputs already.
        folder = clone(str(source.resolve()), Path(name) / "clone", Path(name) / "cache")
        reproduce(folder, "repro", "--force")
        equal, text = differences(folder)
    print(text)
    sys.exit(0 if equal else 1)


def warn_of_changes(work: str) -> None:
    """The work is on a commit: say so where the checkout has more than that."""
    if git(Path(), "status", "--porcelain", "--untracked-files=normal"):
        print(f"warning: uncommitted changes are not part of {work}", file=sys.stderr)


def short_run(folder: Path) -> Path:
    """A clone of this checkout with the results of a short run on the digits committed."""
    clone(".", folder, folder / ".dvc/cache")
    changes = [word for change in SHORT for word in ("--set-param", change)]
    reproduce(folder, "exp", "run", "--force", *changes)
    git(folder, "commit", "--quiet", "--all", "--message=a short run")
    return folder


def reproduce(folder: Path, *words: str) -> None:
    """Run a clone's stages with `dvc repro` or `dvc exp run`; InputError where one fails.

    A result that its environment.json says was computed on the CPU is computed there again.
    """
    environment = dict(os.environ)
    if Path(mirror := environment.get("MNIST_MIRROR", "missing")).is_dir():
        environment["MNIST_MIRROR"] = str(Path(mirror).resolve())
    record = folder / ENVIRONMENT
    if record.exists() and parse_json(read_text(record), str(ENVIRONMENT)).get("device") == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # runtime.device: auto would take a GPU
    command = leashed("dvc", *words)
    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if status != 0:
        raise InputError(f"dvc.yaml: expected all stages to succeed, found exit status {status}")


def differences(folder: Path) -> tuple[bool, str]:
    """Whether a clone's dvc.lock and metrics are those of its commit, and a text that says so."""
    what = (LOCK, str(ENVIRONMENT.parent))
    changed = git(folder, *DIFF, "--stat", "--", *what)
    if not changed:
        return True, f"Equal: {' and '.join(what)}/ have the bytes of the commit."
    environment = git(folder, *DIFF, "--unified=0", "--", str(ENVIRONMENT))
    reason = "The environments are equal: this processor computes otherwise, or the code varies.\n"
    if environment:
        reason = f"How the environments differ:\n\n{environment}"
    lock = git(folder, *DIFF, "--unified=2", "--", LOCK)
    return False, f"Not equal to the commit:\n\n{changed}\n{lock}\n{reason}"
