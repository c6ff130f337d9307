"""A result as one commit, on main or on a branch of its own: data first, then the commit."""

import hashlib
from pathlib import Path

from flows.repro import run_dvc
from mnist_pipeline.files import InputError
from mnist_pipeline.review.git import git
from mnist_pipeline.review.result import LOCK

AUTHOR = ("-c", "user.name=retrain", "-c", "user.email=retrain@localhost")
COMMITTED = (LOCK, "metrics", "params.yaml")


def push(folder: Path, branch: str, publish: str, verdict: str) -> str | None:
    """Commit and push a clone's result; the branch that has it, or None if that has moved.

    Raises InputError without a DVC remote, and where a remote refuses: nothing is published.
    """
    if not git(folder, "status", "--porcelain", "--", *COMMITTED):
        return branch
    target = branch
    if publish == "branch":
        target = f"retrain/{hashlib.sha256((folder / LOCK).read_bytes()).hexdigest()[:12]}"
        if git(folder, "ls-remote", "--heads", "origin", target):
            return target  # the same result is there already
    git(folder, "add", *COMMITTED)
    git(folder, *AUTHOR, "commit", "--quiet", f"--message=Retrain: {verdict}")
    run_dvc(folder, "push")
    try:
        git(folder, "push", "--quiet", "origin", f"HEAD:refs/heads/{target}")
    except InputError as error:
        if "non-fast-forward" in str(error) or "fetch first" in str(error):
            return None
        raise
    return target
