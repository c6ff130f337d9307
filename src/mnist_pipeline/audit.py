"""make audit: does this commit, reproduced from nothing, give the bytes that its dvc.lock names?

PYTHONPATH=src python -m mnist_pipeline.audit            # the whole training, on MNIST
PYTHONPATH=src python -m mnist_pipeline.audit --short    # two short runs on the digits, compared
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mnist_pipeline.stage import InputError, run

ENVIRONMENT = Path("metrics/environment.json")
SHORT = ("data.source=digits", "train.epochs=2", "save.min_accuracy=0")


def main() -> None:
    parser = argparse.ArgumentParser(description="Reproduce this commit and compare every byte.")
    parser.add_argument("--short", action="store_true", help="compare two short runs instead")
    short = parser.parse_args().short
    warn_of_changes()
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-audit-") as name:
        expected = clone(Path(name) / "expected")
        found = clone(Path(name) / "found")
        if short:
            reproduce(expected, SHORT)
        reproduce(found, SHORT if short else ())
        rows = compare(hashes(expected), hashes(found))
        print(table(("output", "expected MD5", "found MD5", "equal"), rows))
        if all(row[-1] == "yes" for row in rows):
            return
        print("\n" + environments(expected, found))
    sys.exit(1)


def warn_of_changes(work: str = "the audit") -> None:
    """The work is on a commit: say so where the checkout has more than that."""
    command = ["git", "status", "--porcelain"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f".: expected a git checkout, found: {done.stderr}")
    if done.stdout:
        print(f"warning: uncommitted changes are not part of {work}", file=sys.stderr)


def clone(folder: Path, cache: Path | None = None) -> Path:
    """This repository's commit in a new folder, with a DVC cache, or an empty one of its own."""
    subprocess.run(["git", "clone", "--quiet", ".", str(folder)], check=True)
    where = str(cache or folder / ".dvc/cache")
    command = ["dvc", "config", "--quiet", "--local", "cache.dir", where]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def reproduce(
    folder: Path, changes: tuple[str, ...] = (), words: tuple[str, ...] = ("--force",)
) -> None:
    """Run a clone's stages: dvc repro, or with parameters changed dvc exp run; and more words.

    Raises InputError where a stage fails.
    """
    environment = dict(os.environ)
    if Path(mirror := environment.get("MNIST_MIRROR", "missing")).is_dir():
        environment["MNIST_MIRROR"] = str(Path(mirror).resolve())
    command = ["dvc", *(["exp", "run"] if changes else ["repro"]), *words]
    for change in changes:
        command += ["--set-param", change]
    status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if status != 0:
        raise InputError(f"dvc.yaml: expected all stages to succeed, found exit status {status}")


def hashes(folder: Path) -> dict[str, str]:
    """MD5 of each output by path, as dvc.lock has them."""
    stages = YAML(typ="safe").load(folder / "dvc.lock")["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


def compare(expected: dict[str, Any], found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each name: what was expected, what was found, equal or not."""
    rows: list[tuple[str, ...]] = []
    for name in expected | found:
        values = [str(side.get(name, "missing")) for side in (expected, found)]
        rows.append((name, *values, "yes" if values[0] == values[1] else "NO"))
    return rows


def environments(expected: Path, found: Path) -> str:
    """How the machine that wrote the expected bytes differs from this one."""
    both = [json.loads((folder / ENVIRONMENT).read_text()) for folder in (expected, found)]
    rows = [row for row in compare(*both) if row[-1] == "NO"]
    if not rows:
        return "Not equal, though the environments are: the code or torch is not deterministic."
    return table(("environment", "expected", "found", "equal"), rows)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows as columns of equal width, for a terminal."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
