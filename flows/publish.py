"""A result as one commit, on main or on a branch of its own: data first, then the commit."""

import hashlib
import subprocess
from pathlib import Path

from flows.clones import git
from flows.gate import RefusedError

AUTHOR = ("-c", "user.name=retrain", "-c", "user.email=retrain@localhost")
FILES = ("dvc.lock", "metrics", "params.yaml")


class MovedError(Exception):
    """Somebody else pushed to the branch in between."""


def push(folder: Path, branch: str, where: str, verdict: str) -> str:
    """Commit and push a clone's result; the branch that has it. MovedError if main has moved.

    Refused without a DVC remote, and where a remote refuses: then nothing is published.
    """
    if not git_changes(folder):
        return branch
    target = branch if where == "main" else f"retrain/{digest(folder)}"
    if where == "branch" and git(folder, "ls-remote", "--heads", "origin", target):
        return target  # this very result is there already
    git(folder, "add", *FILES)
    git(folder, *AUTHOR, "commit", "--quiet", f"--message={message(folder, verdict)}")
    run(folder, "dvc", "push")
    try:
        git(folder, "push", "--quiet", "origin", f"HEAD:refs/heads/{target}")
    except subprocess.CalledProcessError as error:
        if "non-fast-forward" in error.stderr or "fetch first" in error.stderr:
            raise MovedError(target) from error
        raise RefusedError(f"git push: {error.stderr.strip().splitlines()[-1]}") from error
    return target


def git_changes(folder: Path) -> bool:
    """Whether the run changed anything that is committed."""
    return bool(git(folder, "status", "--porcelain", "--", *FILES))


def digest(folder: Path) -> str:
    """A short name for the result: what dvc.lock says of it."""
    return hashlib.sha256((folder / "dvc.lock").read_bytes()).hexdigest()[:12]


def message(folder: Path, verdict: str) -> str:
    """What changed, and the verdict."""
    changes = git(folder, "diff", "--cached", "--name-only").split()
    return f"Retrain: {verdict}\n\nChanged: {', '.join(changes)}\n"


def run(folder: Path, *command: str) -> None:
    """Run a command that publishes; Refused with its last line where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RefusedError(f"{' '.join(command)}: {' '.join(last)}")
