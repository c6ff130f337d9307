"""Publish a result: first its data, then in one push a commit and, on main, the version's tags."""

import hashlib
from pathlib import Path

from flows.repro import run_dvc
from flows.versions import register
from mnist_pipeline.files import InputError
from mnist_pipeline.review.git import git
from mnist_pipeline.review.result import LOCK

COMMITTED = (LOCK, "metrics", "params.yaml")
# What git says if somebody else has pushed a commit or the same tag.
MOVED = (
    "non-fast-forward",
    "fetch first",
    "already exists",
    "cannot lock ref",
    "incorrect old value",  # git 2.50
)


def push(folder: Path, branch: str, publish: str, verdict: str) -> str | None:
    """Commit and push a clone's result; returns where it went, or None if the branch has moved.

    If nothing is new, nothing is pushed, and it says so. On main a new result becomes the next
    version, in production. Raises InputError, and publishes nothing, if there is no DVC
    remote, or if a remote refuses.
    """
    changed, target = git(folder, "status", "--porcelain", "--", *COMMITTED), branch
    if changed:
        commit_result(folder, f"Retrain: {verdict}")
    if changed and publish == "branch":  # the same result has the same name
        written = git(folder, "rev-parse", *(f"HEAD:{path}" for path in COMMITTED))
        target = f"retrain/{hashlib.sha256(written.encode()).hexdigest()[:12]}"
    tags = register(folder, verdict) if publish == "main" else []
    if not changed and not tags:
        return "nothing new"
    run_dvc(folder, "push")
    refs = [f"HEAD:refs/heads/{target}", *(f"refs/tags/{tag}" for tag in tags)]
    try:
        git(folder, "push", "--quiet", "--atomic", "origin", *refs)
    except InputError as error:
        if publish == "branch" and git(folder, "ls-remote", "origin", f"refs/heads/{target}"):
            return target
        if publish == "branch" or not any(reason in str(error) for reason in MOVED):
            raise
        return None
    return ", ".join([target, *tags[:1]])


def commit_result(folder: Path, message: str) -> None:
    """Commit a clone's result, even if nothing changed."""
    git(folder, "add", *COMMITTED)
    git(folder, "commit", "--quiet", "--allow-empty", f"--message={message}")
