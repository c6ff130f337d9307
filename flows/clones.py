"""A clone for each run: nobody's checkout is touched, and two runs never meet."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
from pydantic import Field
from ruamel.yaml import YAML

from mnist_pipeline.files import PARAMS, InputError, dvc_cache
from mnist_pipeline.review.git import clone, git

ROOT = Path(__file__).resolve().parent.parent
KEY = r"^[a-z]+\.[a-z_][a-z0-9_]*$"  # train.lr
Key = Annotated[str, Field(pattern=KEY)]
Value = bool | int | float | str
Overrides = Annotated[  # the schema alone would let keys pass that do not match the pattern
    dict[Key, Value], Field(json_schema_extra={"additionalProperties": False})
]
# The folder of the clones, and of the cache that they share.
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "mnist_pipeline/retrain")


@contextmanager
def temporary_clone(repository: str, branch: str) -> Iterator[Path]:
    """A clone of a branch's tip, or of a commit, in a new folder that is removed afterwards.

    If `repository` is empty, the origin of this checkout is cloned; if `branch` is empty, the
    repository's current branch. All clones share one DVC cache, but clones of a checkout on this
    machine share the cache of that checkout. Raises InputError if git cannot clone it.
    """
    clones = HOME / "clones" / platform.node()  # one for each machine that shares HOME
    clones.mkdir(parents=True, exist_ok=True)
    for left in clones.glob("[0-9]*-*"):
        if not psutil.pid_exists(int(left.name.split("-")[0])):  # its run was killed
            shutil.rmtree(left, ignore_errors=True)
    source = repository or git(ROOT, "remote", "get-url", "origin").strip()
    cache = dvc_cache(Path(source)) if Path(source, ".dvc").is_dir() else HOME / "cache"
    prefix = f"{os.getpid()}-"
    with (
        TemporaryDirectory(prefix=prefix, dir=clones, ignore_cleanup_errors=True) as name,
        TemporaryDirectory(prefix="mnist_pipeline-dvc-", ignore_cleanup_errors=True) as notes,
    ):
        folder = clone(source, Path(name), cache, branch)
        # DVC's notes on the clone would stay in /var/tmp for ever. They must lie on a local disk,
        # which HOME may not be. git would refuse the key.
        with (folder / ".dvc/config.local").open("a") as file:
            file.write(f'[core]\n    site_cache_dir = "{notes}"\n')
        yield folder


def override_params(folder: Path, overrides: Overrides) -> None:
    """Change a clone's params.yaml: {"train.lr": 0.5}. InputError for a key that is not there."""
    yaml = YAML()  # keeps the comments
    tree = yaml.load(folder / PARAMS)
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name not in tree.get(section, {}):
            raise InputError(f"overrides: params.yaml has no key {key}")
        tree[section][name] = value
    yaml.dump(tree, folder / PARAMS)
