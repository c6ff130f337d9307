"""A result as its files in git say it, strictly read: anybody may have written them."""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.events import NodeEvent

from mnist_pipeline.mnist_files import TEST_IMAGES, TEST_LABELS
from mnist_pipeline.stage import InputError

METRICS, ERRORS = "metrics/metrics.json", "metrics/errors.csv"
LOCK, PARAMS = "dvc.lock", "params.yaml"
COLUMNS = "index,label,predicted,confidence"
ROW = re.compile(r"(\d{1,7}),(\d),(\d),(?:0\.\d+|1\.0+)", re.ASCII)
# Bytes of a file. errors.csv with every test image has 0.2 MB; the YAML parser takes a second for
# its limit.
LARGEST = {".csv": 5_000_000, ".json": 100_000, ".yaml": 50_000, ".lock": 50_000}
MOST, DEEPEST = 1000, 8  # values in a file of metrics or parameters, and their levels
TEST_SET = (str(TEST_IMAGES), str(TEST_LABELS))


class Metrics(BaseModel):
    """metrics/metrics.json; a number that is missing or not finite is refused."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    accuracy: float = Field(ge=0, le=1)
    loss: float
    correct: int = Field(ge=0, le=10**6)
    total: int = Field(ge=1, le=10**6)
    dry_run: bool


class Wrong(NamedTuple):
    """A wrong answer: the true digit, and the one that the model takes it for."""

    label: int
    predicted: int


class Result(NamedTuple):
    """What a commit or a folder says of its model."""

    metrics: Metrics
    errors: dict[int, Wrong]  # metrics/errors.csv, by the index of the test image
    test_set: tuple[str, ...]  # MD5 of the test images and labels, from dvc.lock


def result(folder: Path) -> Result:
    """The result in a folder, whose files are still those that dvc.lock names.

    Raises InputError as `parse` does, and where a file is missing or edited by hand.
    """
    texts = {name: read(folder, name) for name in (METRICS, ERRORS, LOCK)}
    found = parse(*texts.values())
    locked = hashes(load_yaml(texts[LOCK], LOCK), "evaluate", "outs")
    for name in (METRICS, ERRORS):
        md5 = hashlib.md5(texts[name].encode(), usedforsecurity=False).hexdigest()
        if locked.get(name) != md5:
            expected = f"expected the MD5 of {LOCK}, {locked.get(name)}, found {md5}"
            raise InputError(f"{name}: edited by hand: {expected}")
    return found


def parse(metrics: str, errors: str, lock: str) -> Result:
    """A result from the text of its files.

    Raises InputError where one is malformed, or where they disagree on how many are wrong.
    """
    numbers = _metrics(metrics)
    wrong = _errors(errors, numbers.total)
    if len(wrong) != numbers.total - numbers.correct:
        rows = f"expected {numbers.total - numbers.correct} rows, found {len(wrong)}"
        raise InputError(f"{ERRORS}: {rows}")
    accuracy = 1 - len(wrong) / numbers.total
    if not math.isclose(numbers.accuracy, accuracy, rel_tol=0, abs_tol=5.1e-7):  # six digits
        share = f"1 - {len(wrong)}/{numbers.total} = {accuracy:.6f}"
        raise InputError(f"{METRICS}: accuracy: expected {share}, found {numbers.accuracy}")
    locked = hashes(load_yaml(lock, LOCK), "evaluate", "deps")
    for path in TEST_SET:
        if path not in locked:
            raise InputError(f"{LOCK}: evaluate: expected the MD5 of {path}, found none")
    return Result(numbers, wrong, tuple(locked[path] for path in TEST_SET))


def read(folder: Path, name: str) -> str:
    """A file's text, as it is; InputError where it is missing, not text or too large."""
    path = folder / name
    if not path.is_file():
        raise InputError(f"{name}: expected a file, found none")
    largest = LARGEST[path.suffix]
    if (size := path.stat().st_size) > largest:
        raise InputError(f"{name}: expected at most {largest:,} bytes, found {size:,}")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: expected UTF-8, found: {error}") from error


def hashes(lock: dict[str, Any], stage: str, part: str) -> dict[str, str]:
    """MD5 by path of a stage's deps or outs in dvc.lock; InputError where it is malformed."""
    try:
        return {str(entry["path"]): str(entry["md5"]) for entry in lock["stages"][stage][part]}
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputError(f"{LOCK}: {stage}: expected {part}, each with path and md5") from error


@cache  # a report reads each file several times
def load_yaml(text: str, name: str) -> dict[Any, Any]:
    """The sections of a YAML file, read as DVC reads it; InputError where there are none.

    Anchors are refused: with them a few bytes can stand for more than any memory holds.
    Not to be changed: whoever asks again gets the same.
    """
    try:
        events = YAML(typ="safe", pure=True).parse(text)
        anchors = any(isinstance(event, NodeEvent) and event.anchor for event in events)
        tree = None if anchors else YAML(typ="safe", pure=True).load(text)
    except Exception as error:  # the parser has many ways to fail on a stranger's file
        raise InputError(f"{name}: expected YAML, found: {type(error).__name__}") from error
    if anchors:
        raise InputError(f"{name}: expected values written out, found an anchor or an alias (&, *)")
    if not isinstance(tree, dict):
        raise InputError(f"{name}: expected keys with values, found {type(tree).__name__}")
    return tree


def load_json(text: str, name: str) -> dict[str, Any]:
    """The keys of a JSON file; InputError where it has none."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: expected JSON, found: {error}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{name}: expected keys with values, found {type(tree).__name__}")
    return tree


def flatten(tree: Any, name: str) -> dict[str, Any]:
    """The values of nested sections and lists by their dotted keys.

    Raises InputError for too many or too deep.
    """
    values: dict[str, Any] = {}
    for number, (key, value) in enumerate(_leaves(tree, "", DEEPEST, name), start=1):
        values[key] = value
        if number > MOST:
            raise InputError(f"{name}: expected at most {MOST:,} values, found more")
    return values


def _leaves(tree: Any, key: str, levels: int, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict | list) or not tree:
        yield key, tree
        return
    if levels == 0:
        raise InputError(f"{name}: expected at most {DEEPEST} levels, found more")
    for child, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _leaves(value, f"{key}.{child}" if key else str(child), levels - 1, name)


def _metrics(text: str) -> Metrics:
    tree = load_json(text, METRICS)
    for key, value in flatten(tree, METRICS).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{METRICS}: {key}: expected a finite number, found {value}")
    try:
        return Metrics.model_validate(tree)
    except ValidationError as error:
        fault = error.errors()[0]
        where, what = ".".join(map(str, fault["loc"])), fault["msg"]
        expected = what.replace("Input should be", "expected")
        raise InputError(f"{METRICS}: {where}: {expected}, found {fault['input']!r}") from error


def _errors(text: str, total: int) -> dict[int, Wrong]:
    head, *lines = text.splitlines() or [""]
    if head != COLUMNS:
        raise InputError(f"{ERRORS}: expected the columns {COLUMNS}, found {head[:80]!r}")
    wrong: dict[int, Wrong] = {}
    for number, line in enumerate(lines, start=2):
        found = ROW.fullmatch(line)
        index, label, predicted = map(int, found.groups()) if found else (total, 0, 0)
        if index >= total or index in wrong or label == predicted:
            row = f"a new index below {total}, two different digits and a confidence"
            raise InputError(f"{ERRORS}: line {number}: expected {row}, found {line[:80]!r}")
        wrong[index] = Wrong(label, predicted)
    return wrong
