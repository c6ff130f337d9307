"""A result as its files in git say it: they must agree with each other and with dvc.lock."""

import csv
import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

from mnist_pipeline.files import ERRORS, METRICS, InputError, parse_yaml, read_text
from mnist_pipeline.metrics import Metrics, parse_metrics

LOCK = "dvc.lock"


class Wrong(NamedTuple):
    """A wrong answer: the true class, and the one that the model takes it for."""

    label: str
    predicted: str


class Result(NamedTuple):
    """What a commit or a folder says of its model."""

    metrics: Metrics
    errors: dict[int, Wrong]  # metrics/errors.csv, by the index of the test image
    test_set: tuple[str, ...]  # MD5s of what the model was tested on, from dvc.lock


def read_result(folder: Path) -> Result:
    """The result in a folder, whose files are still those that dvc.lock names.

    Raises InputError as `parse_result` does, and where a file is missing or edited by hand.
    """
    texts = []
    for name in (str(METRICS), str(ERRORS), LOCK):
        if not (folder / name).is_file():
            raise InputError(f"{name}: expected a file, found none")
        texts.append(read_text(folder / name))
    found = parse_result(*texts)
    written = hashes(parse_yaml(texts[2], LOCK), "evaluate", "outs")
    for name, text in zip((str(METRICS), str(ERRORS)), texts, strict=False):
        md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        if written.get(name) != md5:
            expected = f"expected the MD5 of {LOCK}, {written.get(name)}, found {md5}"
            raise InputError(f"{name}: edited by hand: {expected}")
    return found


def parse_result(metrics: str, errors: str, lock: str) -> Result:
    """A result from the texts of metrics/metrics.json, metrics/errors.csv and dvc.lock.

    Raises InputError where one is malformed, or where they disagree on how many are wrong.
    """
    numbers = parse_metrics(metrics)
    wrong = _errors(errors, numbers)
    if len(wrong) != numbers.total - numbers.correct:
        expected = f"expected {numbers.total - numbers.correct} rows, found {len(wrong)}"
        raise InputError(f"{ERRORS}: {expected}")
    accuracy = numbers.correct / numbers.total
    if not math.isclose(numbers.accuracy, accuracy, rel_tol=0, abs_tol=5.1e-7):  # six digits
        share = f"{numbers.correct}/{numbers.total} = {accuracy:.6f}"
        raise InputError(f"{METRICS}: accuracy: expected {share}, found {numbers.accuracy}")
    return Result(numbers, wrong, _test_set(parse_yaml(lock, LOCK)))


def hashes(lock: dict[str, Any], stage: str, part: str) -> dict[str, str]:
    """MD5 by path of a stage's deps or outs in dvc.lock; InputError where it has none."""
    try:
        return {str(entry["path"]): str(entry["md5"]) for entry in lock["stages"][stage][part]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{LOCK}: {stage}: expected {part}, each with path and md5") from error


def _test_set(lock: dict[str, Any]) -> tuple[str, ...]:
    """MD5s of what evaluate reads that is neither code nor written by train."""
    weights = hashes(lock, "train", "outs")
    read = hashes(lock, "evaluate", "deps").items()
    found = [md5 for path, md5 in read if not path.startswith("src/") and path not in weights]
    if not found:
        raise InputError(f"{LOCK}: evaluate: expected test data among its deps, found none")
    return tuple(found)


def _errors(text: str, metrics: Metrics) -> dict[int, Wrong]:
    wrong: dict[int, Wrong] = {}
    rows = csv.DictReader(text.splitlines())
    for row in rows:
        try:
            index, answer = int(row["index"]), Wrong(row["label"], row["predicted"])
        except (KeyError, TypeError, ValueError) as error:
            columns = "index, label, predicted"
            raise InputError(f"{ERRORS}: line {rows.line_num}: expected {columns}") from error
        known = set(answer) <= set(metrics.recall) and answer.label != answer.predicted
        if not known or index in wrong or not 0 <= index < metrics.total:
            expected = f"a new index below {metrics.total} and two different classes"
            found = ",".join(map(str, row.values()))
            raise InputError(f"{ERRORS}: line {rows.line_num}: expected {expected}, found {found}")
        wrong[index] = answer
    return wrong
