"""A result, read from its files in git, which must be the ones that dvc.lock names."""

import csv
import hashlib
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from mnist_pipeline.files import (
    ERRORS,
    METRICS,
    NEW,
    NEW_TEST,
    NEW_TRAIN,
    InputError,
    parse_yaml,
    read_text,
)
from mnist_pipeline.metrics import Metrics, parse_metrics

LOCK = "dvc.lock"
Key = TypeVar("Key", int, str)


class Answer(NamedTuple):
    """The true class, and the one that the model takes it for."""

    label: str
    predicted: str


class Result(NamedTuple):
    """What a commit or a folder says about its model."""

    metrics: Metrics
    errors: dict[int, Answer]  # metrics/errors.csv, by the index of the test image
    new: dict[str, Answer]  # metrics/new.csv, by the name of the new test image
    test_set: tuple[str, ...]  # MD5s of what the model was tested on, from dvc.lock


def read_result(folder: Path) -> Result:
    """The result in a folder, whose files are still the ones that dvc.lock names.

    Raises InputError if a file is missing, malformed or edited by hand, or if two disagree.
    """
    if not (folder / LOCK).is_file():
        raise InputError(f"{LOCK}: expected a file, found none")
    lock = parse_yaml(read_text(folder / LOCK), LOCK)
    written = hashes(lock, "evaluate", "outs")
    metrics = parse_metrics(_read(folder, METRICS, written))
    wrong = _answers(_read(folder, ERRORS, written), "index", int, ERRORS)
    _check_agreement(metrics, wrong)
    new = _answers(_read(folder, NEW, written), "name", str, NEW) if str(NEW) in written else {}
    test_data = inputs(lock, "evaluate", "src").values()
    if not test_data:
        raise InputError(f"{LOCK}: evaluate: expected test data among its deps, found none")
    return Result(metrics, wrong, new, tuple(sorted(test_data)))  # dvc.lock has the names' order


def _read(folder: Path, path: Path, written: dict[str, str]) -> str:
    """The text of a file. InputError if it is not the one that dvc.lock names."""
    if not (folder / path).is_file():
        raise InputError(f"{path}: expected a file, found none")
    text = read_text(folder / path)
    if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != written.get(str(path)):
        what = f"expected the file whose MD5 is in {LOCK}, found another one"
        raise InputError(f"{path}: {what}: run dvc repro, and commit {LOCK} and {path.parent}/")
    return text


def _check_agreement(metrics: Metrics, wrong: dict[int, Answer]) -> None:
    """Raises InputError if the errors are not those that the metrics count."""
    count, total = metrics.total - metrics.correct, metrics.total
    if abs(metrics.accuracy - metrics.correct / total) > 1e-6:
        expected = f"expected correct / total = {metrics.correct / total}"
        raise InputError(f"{METRICS}: accuracy: {expected}, found {metrics.accuracy}")
    errors = [at for at, (label, predicted) in wrong.items() if label != predicted]
    if not len(errors) == len(wrong) == count or not all(0 <= at < total for at in errors):
        what = f"expected {count} errors on {total} images, as in {METRICS}"
        raise InputError(f"{ERRORS}: {what}, found {len(errors)}, or wrong rows")


def find_new(folder: Path) -> set[str]:
    """The names of the new images in a folder of files, with their folders."""
    return {
        str(path.relative_to(folder))
        for place in (NEW_TRAIN, NEW_TEST)
        for path in (folder / place).glob("[!.]*.png")
    }


def check_answers(folder: Path, old: Result, new: Result) -> None:
    """Raises InputError if the new result lacks an old answer to an image that is still there."""
    lost = {str(NEW_TEST / name) for name in old.new.keys() - new.new.keys()} & find_new(folder)
    if lost:
        raise InputError(f"{NEW}: expected answers to all new test images, {len(lost)} are gone")


def hashes(lock: dict[str, Any], stage: str, part: str) -> dict[str, str]:
    """Path → MD5 of a stage's deps or outs in dvc.lock; InputError if it has none."""
    try:
        return {str(entry["path"]): str(entry["md5"]) for entry in lock["stages"][stage][part]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{LOCK}: {stage}: expected {part}, each with path and md5") from error


def inputs(lock: dict[str, Any], stage: str, *others: str) -> dict[str, str]:
    """Path → MD5 of a stage's deps in dvc.lock.

    New images, what train writes, and what lies at or below the other paths are left out.
    """
    out = (str(NEW_TRAIN), str(NEW_TEST), *hashes(lock, "train", "outs"), *others)
    return {
        path: md5
        for path, md5 in hashes(lock, stage, "deps").items()
        if not any(Path(path).is_relative_to(each) for each in out)
    }


def _answers(text: str, key: str, kind: type[Key], path: Path) -> dict[Key, Answer]:
    """The rows of a table of answers, by one of its columns."""
    try:
        return {
            kind(row[key]): Answer(row["label"].strip(), row["predicted"].strip())
            for row in csv.DictReader(text.splitlines())
        }
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        what = f"expected columns {key}, label, predicted, found: {error}"
        raise InputError(f"{path}: {what}") from error
