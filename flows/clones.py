"""A clone for each run: nobody's checkout is touched, and two runs never meet."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import psutil
from pydantic import Field
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.params import PATH
from mnist_pipeline.review.git import clone, git

ROOT = Path(__file__).resolve().parent.parent
Key = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]  # train.lr
Value = bool | int | float | str
Overrides = Annotated[  # pydantic's schema has the keys' pattern, but would let others through
    dict[Key, Value], Field(json_schema_extra={"additionalProperties": False})
]
# Where the clones and the cache that they share lie.
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mnist_pipeline/retrain")


@contextmanager
def temporary_clone(repository: str, branch: str) -> Iterator[Path]:
    """The tip of a branch, or a commit, in a new folder, which is removed afterwards.

    Without a repository's name, that of this checkout's origin. All clones share a DVC cache;
    those of a checkout on this machine share the checkout's.
    """
    clones = HOME / "clones"
    clones.mkdir(parents=True, exist_ok=True)
    for left in clones.iterdir():
        if not psutil.pid_exists(int(left.name.split("-")[0])):  # its run was killed
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=clones))
    try:
        source = repository or git(ROOT, "remote", "get-url", "origin").strip()
        checkout = Path(source) / ".dvc"
        yield clone(
            source, folder, checkout / "cache" if checkout.is_dir() else HOME / "cache", branch
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def override_params(folder: Path, overrides: Overrides) -> None:
    """Change a clone's params.yaml: {"train.lr": 0.5}. InputError for a key that is not there."""
    yaml = YAML()  # keeps the comments
    tree = yaml.load(folder / PATH)
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name not in tree.get(section, {}):
            raise InputError(f"overrides: params.yaml has no key {key}")
        tree[section][name] = value
    yaml.dump(tree, folder / PATH)
