"""Push what people corrected on the page, as one commit on a branch images/<date>, for review.

python -m flows.collect    # from this checkout's data/spool to its origin
"""

import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows import command
from flows.clones import ROOT, temporary_clone
from flows.publish import MOVED
from flows.stages import connect, refused
from mnist_pipeline.files import InputError
from mnist_pipeline.new_images import NAME
from mnist_pipeline.review.git import git
from mnist_pipeline.use.add_images import Known, add, by_digest, find_mnist
from mnist_pipeline.use.digit import read_picture
from mnist_pipeline.use.spool import SPOOL

ATTEMPTS = 3  # somebody else may push to the branch meanwhile


@flow(name="collect", log_prints=True)
def collect(repository: str = "") -> State[None]:
    """Push what waits in data/spool of this project's checkout, for a pull request.

    Args:
        repository: where to push; empty: where this project's checkout came from.
    """
    try:
        connect(repository)
        here = ROOT / SPOOL
        return Completed(message=f"{empty(here, repository)}, from {platform.node()}:{here}")
    except InputError as error:
        return refused(str(error))


def empty(spool: Path, repository: str) -> str:
    """Push a spool's images, then remove them from the spool; returns what was done.

    Nothing is removed before the push; what is known already is not pushed again. Raises InputError
    if a remote refuses.
    """
    for _ in range(ATTEMPTS):
        with temporary_clone(repository, "main") as folder:
            waiting = read_waiting(spool)
            try:
                done = push(folder, waiting)
            except InputError as error:
                if any(reason in str(error) for reason in MOVED):
                    why = error
                    continue
                raise
        for path in waiting:
            path.unlink(missing_ok=True)  # another collector may have removed it
        return done
    raise InputError(f"none of {ATTEMPTS} attempts could push; the last one: {why}")


def read_waiting(spool: Path) -> dict[Path, NDArray[np.uint8]]:
    """The images in a spool, by file; a damaged one is named and left out."""
    images = {}
    for path in sorted(spool.glob("*.png")):
        if NAME.fullmatch(path.name):
            try:
                images[path] = np.asarray(read_picture(path))
            except InputError as error:
                print(f"{path.name}: {error}")
    return images


def push(folder: Path, waiting: dict[Path, NDArray[np.uint8]]) -> str:
    """Add the waiting images to a clone, on today's branch, and push it; returns what was done."""
    branch, count = f"images/{datetime.now(UTC):%Y-%m-%d}", 0
    # Only MNIST counts from this checkout: its own new images may never be pushed.
    known = find_mnist(ROOT) | find_pushed(folder)
    if git(folder, "for-each-ref", f"refs/remotes/origin/{branch}"):
        git(folder, "checkout", "--quiet", branch)
    for path, image in waiting.items():
        try:
            add(folder, image, int(path.name[0]), known)
        except InputError as error:
            print(f"{path.name}: {error}")
        else:
            count += 1
    if not count:
        return "nothing new"
    git(folder, "add", "data/new")
    message = f"--message=Add images that people have labelled: {count}"
    git(folder, "commit", "--quiet", message)
    git(folder, "push", "--quiet", "origin", f"HEAD:refs/heads/{branch}")
    return f"{branch}: images added: {count}"


def find_pushed(folder: Path) -> Known:
    """The new images of a clone's commit and of its branches images/…, merged or not."""
    names = []
    branches = git(folder, "for-each-ref", "--format=%(refname)", "refs/remotes/origin/images/")
    for commit in ["HEAD", *branches.split()]:
        names += git(folder, "ls-tree", "-r", "--name-only", commit, "data/new").split()
    return by_digest(names)


if __name__ == "__main__":
    with command(__doc__):
        print(empty(SPOOL, ""))
