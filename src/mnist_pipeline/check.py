"""Check params.yaml, and other values for its keys, without running anything.

PYTHONPATH=src python -m mnist_pipeline check '{"train.lr": [0.5, 1.0]}'
"""

import argparse
import json
from typing import Any

from mnist_pipeline.arithmetic import RuntimeParams
from mnist_pipeline.download import DataParams
from mnist_pipeline.evaluate import EvaluateParams
from mnist_pipeline.files import InputError, Record, load_params, parse_json, validate
from mnist_pipeline.parallel import MachineParams
from mnist_pipeline.save import SaveParams
from mnist_pipeline.train import LogParams, TrainParams, check_combination
from mnist_pipeline.use.spool import AppParams

SCHEMAS: dict[str, type[Record]] = {
    "data": DataParams,
    "runtime": RuntimeParams,
    "train": TrainParams,
    "evaluate": EvaluateParams,
    "save": SaveParams,
}


def main() -> None:
    """Check each section that has a schema; one line and exit status 2 for the first fault."""
    parser = argparse.ArgumentParser(description="Check params.yaml, and other values for it.")
    parser.add_argument("values", nargs="?", default="{}", help="as JSON, a list for each key")
    others = parse_json(parser.parse_args().values, "values")
    load_params("log", LogParams)
    load_params("app", AppParams)
    train, platform = load_params("train", TrainParams), load_params("runtime", RuntimeParams)
    check_combination(train, platform, load_params("machine", MachineParams).processes)
    params = {section: load_params(section, schema) for section, schema in SCHEMAS.items()}
    checked = {key: check(params, key, values) for key, values in others.items()}
    print("params.yaml: valid")
    if checked:
        print(json.dumps(checked))


def check(params: dict[str, Record], key: str, values: list[Any]) -> list[Any]:
    """Values for a key, as its schema has them: 1 becomes 1.0 where it may be a fraction.

    Raises InputError for a key that no stage depends on, or a value that it cannot have. Each value
    is checked alone: two that exclude each other are found when a stage runs.
    """
    section, _, name = key.partition(".")
    if not isinstance(values, list):
        raise InputError(f"values: {key}: expected a list, found {values!r}")
    if section not in params or not name:
        raise InputError(f"values: {key}: expected a key of {', '.join(params)}")
    schema, others = SCHEMAS[section], params[section].model_dump()
    changed = [validate(schema, others | {name: value}, "values", section) for value in values]
    return [getattr(each, name) for each in changed]
