"""A clone for each run: nobody's checkout is touched, and two runs never meet."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from flows.gate import RefusedError

ROOT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Where clones and the cache that they share lie: $XDG_CACHE_HOME/mnist_pipeline/retrain."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "mnist_pipeline/retrain"


@contextmanager
def clone(repository: str, branch: str) -> Iterator[Path]:
    """The tip of a branch in a new folder, with the DVC cache of all runs; removed afterwards."""
    sweep()
    (home() / "clones").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=home() / "clones"))
    try:
        try:
            git(folder, "clone", "--quiet", "--branch", branch, repository or origin(), ".")
        except subprocess.CalledProcessError as error:
            raise RefusedError(f"git: {error.stderr.strip().splitlines()[-1]}") from error
        command = ["dvc", "config", "--quiet", "--local", "cache.dir", str(home() / "cache")]
        subprocess.run(command, cwd=folder, check=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the clones of runs that were killed."""
    for folder in (home() / "clones").glob("*-*"):
        if not psutil.pid_exists(int(folder.name.split("-")[0])):
            shutil.rmtree(folder, ignore_errors=True)


def origin() -> str:
    """Where this project's own checkout came from."""
    return git(ROOT, "remote", "get-url", "origin").strip()


def git(folder: Path, *words: str) -> str:
    """Run git; what it printed. CalledProcessError carries what it complained of."""
    return subprocess.run(
        ["git", *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def set_params(folder: Path, overrides: dict[str, Any]) -> None:
    """Change a clone's params.yaml: {"train.lr": 0.5}. Refused for a key that is not there."""
    yaml, path = YAML(), folder / "params.yaml"
    tree = yaml.load(path)
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if name not in tree.get(section, {}):
            raise RefusedError(f"overrides: {key}: expected a key of params.yaml")
        tree[section][name] = value
    if overrides:
        yaml.dump(tree, path)
