"""What a search tries: values from lists or ranges, chosen by Optuna's samplers."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Annotated, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field

from flows.clones import Key, Overrides, Value
from mnist_pipeline.files import InputError, Record, parse_json
from mnist_pipeline.review.ranking import SEED


class Range(Record):
    """Values from `low` to `high`, both included; with `log`, drawn evenly on a log scale."""

    low: int | float
    high: int | float
    log: bool = False


Grid = Annotated[
    dict[Key, Annotated[list[Value], Field(min_length=1)] | Range],
    Field(min_length=1, json_schema_extra={"additionalProperties": False}),
]
Sampler = Literal["grid", "random", "tpe"]
Space = dict[str, BaseDistribution]


def check(folder: Path, grid: Grid) -> dict[str, list[Value]]:
    """The values of a grid, of a range the two ends, as a clone's own code has them: 1 or 1.0.

    Raises InputError for values that the clone's schemas refuse, and for a commit so old that its
    check prints no values. This runs in a child process, because that code loads torch.
    """
    bounds = {
        key: one if isinstance(one, list) else [one.low, one.high] for key, one in grid.items()
    }
    done = subprocess.run(
        [sys.executable, "-m", "mnist_pipeline", "check", json.dumps(bounds)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise InputError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: "))
    return parse_json(done.stdout.splitlines()[-1], "the check of this commit's code")


def to_space(grid: Grid, checked: dict[str, list[Value]]) -> Space:
    """A checked grid in Optuna's terms. Raises InputError for a range without values."""
    space: Space = {}
    for key, values in grid.items():
        try:
            if isinstance(values, list):
                space[key] = CategoricalDistribution([*dict.fromkeys(checked[key])])
            elif all(isinstance(end, int) for end in checked[key]):
                space[key] = IntDistribution(int(values.low), int(values.high), log=values.log)
            else:
                space[key] = FloatDistribution(values.low, values.high, log=values.log)
        except ValueError as error:
            raise InputError(f"grid: {key}: {error}") from error
    return space


def to_seeds(values: list[Value] | Range | None) -> list[Overrides]:
    """One override for each seed, or a single empty one. InputError for a range."""
    if isinstance(values, Range):
        raise InputError(f"grid: {SEED}: expected a list, found a range")
    return [{SEED: seed} for seed in dict.fromkeys(values)] if values else [{}]


def plan(
    folder: Path, grid: Grid, sampler: Sampler | None, seed: int, trials: int | None
) -> tuple[Space, list[Overrides], optuna.Study, int]:
    """Returns what to search apart from the seeds, the seeds, Optuna's study, how many points.

    Raises InputError for what a clone's params.yaml, the sampler or Optuna does not accept.
    """
    seeds = to_seeds(grid.get(SEED))
    space = to_space(grid, check(folder, grid))
    space.pop(SEED, None)
    return space, seeds, *create_study(space, sampler, seed, trials)


def create_study(
    space: Space, sampler: Sampler | None, seed: int, trials: int | None
) -> tuple[optuna.Study, int]:
    """Optuna's study of a space, in memory, and how many points to try.

    Raises InputError if the sampler does not fit the space, or the number of points is unknown.
    """
    lists = {k: one.choices for k, one in space.items() if isinstance(one, CategoricalDistribution)}
    sampler = sampler or ("grid" if len(lists) == len(space) else "tpe")
    chosen: optuna.samplers.BaseSampler
    if sampler == "grid":
        if len(lists) < len(space):
            raise InputError("sampler: expected random or tpe for a range, found grid")
        chosen = optuna.samplers.GridSampler(lists, seed=seed)
        whole = prod(map(len, lists.values()))
        trials = min(trials or whole, whole)
    elif sampler == "random":
        chosen = optuna.samplers.RandomSampler(seed=seed)
    else:  # constant_liar keeps the points of a batch apart while none has a score
        chosen = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    if trials is None:
        raise InputError("trials: expected a number, such as trials=20, as only a grid is finite")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=chosen, direction="maximize"), trials


def explore(
    study: optuna.Study,
    space: Space,
    number: int,
    together: int,
    score: Callable[[list[Overrides]], list[float]],
) -> None:
    """Choose points of a space and score them: all at once, or for TPE `together` at a time.

    Higher scores are better. The same seed gives the same points, whichever trial ends first.
    """
    learns = isinstance(study.sampler, optuna.samplers.TPESampler)
    while number:
        asked = [study.ask(space) for _ in range(min(number, together) if learns else number)]
        scores = score([trial.params for trial in asked])
        for trial, value in zip(asked, scores, strict=True):
            if learns:  # GridSampler would call study.stop(), which fails outside study.optimize()
                study.tell(trial, value)
        number -= len(asked)
