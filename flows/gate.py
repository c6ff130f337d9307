"""May this result be published? Whatever is missing or odd is a reason not to."""

import subprocess
from pathlib import Path

from ruamel.yaml import YAML

from mnist_pipeline.compare import Comparison, compare
from mnist_pipeline.results import ERRORS, LOCK, METRICS, Result, parse, read
from mnist_pipeline.stage import InputError


class RefusedError(Exception):
    """Why a result is not published."""


def check(folder: Path, publish: str, alpha: float) -> str:
    """The verdict on a clone's result, against the one committed at its tip.

    Raises Refused where the result is not sound, or significantly worse at `alpha`.
    """
    new = sound(folder)
    if not committed(folder, LOCK):
        return "the first publication: nothing to compare with"
    old = published(folder)
    if old.test_set != new.test_set:
        if publish == "main":
            raise RefusedError("the published model was tested on other images: not comparable")
        return "not comparable: the published model was tested on other images"
    found = compare(old, new)
    if len(found.broken) > len(found.fixed) and found.p_value < alpha:
        raise RefusedError(f"significantly worse than the published model: {counts(found)}")
    return f"not significantly worse than the published model: {counts(found)}"


def counts(found: Comparison) -> str:
    """The numbers behind a verdict."""
    return f"{len(found.fixed)} fixed, {len(found.broken)} broken, p = {found.p_value:.3g}"


def sound(folder: Path) -> Result:
    """The result in a folder; Refused where it is not one to publish."""
    try:
        result = parse(*(read(folder, name) for name in (METRICS, ERRORS, LOCK)))
        floor = YAML(typ="safe").load(folder / "params.yaml")["save"]["min_accuracy"]
    except (OSError, KeyError, ValueError, InputError) as error:
        raise RefusedError(f"no whole result: {error}") from error
    if result.metrics.dry_run:
        raise RefusedError("a dry run")
    if result.metrics.accuracy < floor:
        raise RefusedError(
            f"accuracy {result.metrics.accuracy} is below save.min_accuracy = {floor}"
        )
    return result


def published(folder: Path) -> Result:
    """The result committed at the tip; Refused where it should be there and is not."""
    try:
        return parse(*(committed(folder, name) or "" for name in (METRICS, ERRORS, LOCK)))
    except (ValueError, InputError) as error:
        raise RefusedError(
            f"the published result should be there, and is not whole: {error}"
        ) from error


def committed(folder: Path, name: str) -> str | None:
    """A file's text at the clone's tip; None where there is none."""
    command = ["git", "show", f"HEAD:{name}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
