"""Where the stages' files lie, how they are read and checked, and how they are written whole.

A section of params.yaml has its schema beside the code that uses it.
"""

import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Never, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

PARAMS, DVC_YAML = Path("params.yaml"), Path("dvc.yaml")
NEW_TRAIN, NEW_TEST = Path("data/new/train"), Path("data/new/test")
WEIGHTS = Path("models/weights.safetensors")
MODEL = Path("models/mnist_cnn.pt")
ONNX = Path("models/mnist_cnn.onnx")
CARD = Path("models/model_card.md")
METRICS = Path("metrics/metrics.json")
ERRORS = Path("metrics/errors.csv")
NEW = Path("metrics/new.csv")
HISTORY = Path("metrics/history.csv")
ENVIRONMENT = Path("metrics/environment.json")
PICTURE = Path("metrics/misclassified.png")


class InputError(Exception):
    """Bad input. The message names the file or key, what was expected and what was found."""


def explain_end(message: str) -> None:
    """Say in one line why this process ends.

    If ranks.launch or torchrun has started this process, the line goes to a file, and the
    starter prints that of the first process to fail.
    """
    line = " ".join(message.split())
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report and "DVC_STAGE" not in os.environ:
        failure = {"message": line, "timestamp": int(time.time())}
        Path(report).write_text(json.dumps(failure), encoding="utf-8")
    else:
        print("error:", line, file=sys.stderr)


def explain_refusal(error: OSError) -> str:
    """The file that the system refused and why, without an error number."""
    return f"{error.filename}: {error.strerror}" if error.filename else str(error)


def dvc_cache(checkout: Path = Path()) -> Path:
    """DVC's cache folder of a checkout: cache.dir of its configuration, or .dvc/cache."""
    from dvc.config import Config  # noqa: PLC0415 (slow)

    folder = checkout / ".dvc"
    return Path(Config(str(folder.resolve()))["cache"].get("dir") or folder / "cache")


class Record(BaseModel):
    """Base of every schema: frozen, strictly typed, no unknown key, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Record)


def validate(schema: type[Schema], tree: Any, name: str, key: str = "") -> Schema:
    """Plain values as an object of their schema.

    Raises InputError that names the file and all the faults in one line. `key` says where in the
    file the values stand.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(_fault(fault, key) for fault in error.errors())
        raise InputError(f"{name}: {faults}") from error


def read_params(folder: Path) -> dict[str, Any]:
    """params.yaml of a folder, unchecked; InputError for malformed YAML."""
    return parse_yaml(read_text(folder / PARAMS), str(PARAMS))


def load_params(section: str, schema: type[Schema], folder: Path = Path()) -> Schema:
    """One section of params.yaml, as its schema.

    Raises InputError for malformed YAML, a missing section, and an unknown, missing, mistyped or
    out-of-range key. It names all the section's faults in one line.
    """
    return validate(schema, read_params(folder).get(section), str(PARAMS), section)


def read_inputs(stage: str) -> dict[str, str]:
    """The parameters and the files' SHA-256 that DVC records for a stage of dvc.yaml.

    Empty without a dvc.yaml, and for a stage that it does not name, or makes by a template.
    """
    if not stage or not DVC_YAML.exists():
        return {}
    known = parse_yaml(read_text(DVC_YAML), str(DVC_YAML)).get("stages", {}).get(stage, {})
    params = read_params(Path()) if known else {}
    keys = known.get("params", ())
    sections = {key.partition(".")[0] for key in keys if isinstance(key, str)}
    found = {f"{PARAMS}: {section}": str(params.get(section)) for section in sections}
    others = [file for key in keys if isinstance(key, dict) for file in key]  # of parameters
    for dep in map(Path, [*known.get("deps", ()), *others]):
        for path in filter(Path.is_file, [dep, *dep.rglob("*")]):
            # Python and numba write the former when they load a folder's code, Finder the latter.
            if "__pycache__" not in path.parts and path.name != ".DS_Store":
                with path.open("rb") as file:
                    found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


@cache
def inputs_at_start(stage: str) -> dict[str, str]:
    """What read_inputs found when it was first asked, before the stage's code was loaded."""
    return read_inputs(stage)


def check_inputs(stage: str) -> None:
    """Raises InputError if a stage's inputs are not what they were at its start.

    DVC reads them after the stage, and would record a result as that of what it never ran on.
    """
    before, after = inputs_at_start(stage), read_inputs(stage)
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    if changed:
        some = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        what = f"its inputs changed while it ran, so the result is not recorded ({some})"
        raise InputError(f"{stage}: {what}; dvc repro runs it again")


def parse_json(text: str, name: str) -> dict[str, Any]:
    """A JSON object; InputError for anything else, and for NaN and infinity."""
    try:
        tree = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise InputError(f"{name}: expected JSON, found: {error}") from error
    return _keys(tree, name)


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """A YAML mapping, read as DVC reads it: 1e-3 is a number. InputError for anything else."""
    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        what = str(getattr(error, "problem", None) or error).removeprefix("found ")
        raise InputError(f"{name}:{where} expected YAML, found: {what}") from error
    return _keys(tree, name)


def read_text(path: Path) -> str:
    """A file's text; InputError if it is not UTF-8."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8, found: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: its old content stays until the new one is on disk.

    One writer at a time. Raises OSError that names the file if the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.tmp")  # after a kill, the next write takes it over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from error


def _keys(tree: Any, name: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise InputError(f"{name}: expected keys with values, found {type(tree).__name__}")
    return tree


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant}, which is not a finite number")


def _fault(fault: Any, key: str) -> str:
    where = ".".join(map(str, [*([key] if key else []), *fault["loc"]])) or "values"
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key"
    if fault["type"] == "missing":
        return f"{where}: expected a value, found none"
    if fault["type"] == "model_type":
        return f"{where}: expected keys with values, found {fault['input']!r}"
    expected = fault["msg"].replace("Input should be", "expected")
    expected = expected.replace("String should match", "expected the")
    return f"{where}: {expected}, found {fault['input']!r}"
