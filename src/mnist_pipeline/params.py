"""Loads params.yaml and refuses what is wrong in it. Each section's schema lives with its stage."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mnist_pipeline.stage import InputError

PATH = Path("params.yaml")
SECTIONS = ("data", "runtime", "train", "evaluate", "save", "log")


class Params(BaseModel):
    """Base of every section's schema: frozen, strictly typed, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Schema = TypeVar("Schema", bound=Params)


def load(section: str, schema: type[Schema], path: Path = PATH) -> Schema:
    """One section of params.yaml, as its schema.

    Raises InputError for malformed YAML and for an unknown, missing, mistyped or
    out-of-range key, and names all the section's faults in one line.
    """
    tree = _read(path)
    for name in tree:
        if name not in SECTIONS:
            raise InputError(f"{path}: {name}: expected one of {', '.join(SECTIONS)}")
    if section not in tree:
        raise InputError(f"{path}: {section}: expected a section of this name, found none")
    try:
        return schema.model_validate(tree[section])
    except ValidationError as error:
        faults = [_fault(section, fault) for fault in error.errors()]
        raise InputError(f"{path}: {'; '.join(faults)}") from error


def _read(path: Path) -> dict[Any, Any]:
    try:
        # The reader DVC uses, so that 1e-3 is a number to both.
        tree = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        what = getattr(error, "problem", None) or str(error)
        raise InputError(f"{path}:{where} expected YAML, found: {what}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: expected sections with keys, found {type(tree).__name__}")
    return tree


def _fault(section: str, fault: Any) -> str:
    key = ".".join([section, *map(str, fault["loc"])])
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if fault["type"] == "missing":
        return f"{key}: expected a value, found none"
    expected = fault["msg"].replace("Input should be", "expected")
    return f"{key}: {expected}, found {fault['input']!r}"
