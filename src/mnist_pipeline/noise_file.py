"""metrics/noise.json: what other seeds make of the same configuration."""

import hashlib
import json
from itertools import combinations
from pathlib import Path
from statistics import stdev
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mnist_pipeline.results import LOCK, PARAMS, flatten, hashes, load_yaml
from mnist_pipeline.stage import InputError

PATH = Path("metrics/noise.json")
MOST = 30  # runs; the file says something of each pair
SECTIONS = ("data", "runtime", "train", "evaluate")  # of params.yaml

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Base(BaseModel):
    """Frozen, strictly typed, no unknown key, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Run(Base):
    """One training: its seed, and its result on the test images."""

    seed: Seed
    correct: Count
    total: int = Field(ge=1, le=1_000_000)
    accuracy: float = Field(ge=0, le=1)


class Pair(Base):
    """Two runs that differ in their seeds alone, compared as if the second were a change."""

    seeds: tuple[Seed, Seed]
    fixed: Count  # test images wrong with the first seed, right with the second
    broken: Count  # the other way round
    p_value: float = Field(ge=0, le=1)  # exact McNemar


class Noise(Base):
    """The whole file. What follows from its runs and pairs must follow, or it is refused."""

    configuration: str = Field(pattern="^[0-9a-f]{64}$")
    alpha: float = Field(gt=0, lt=1)
    runs: tuple[Run, ...] = Field(min_length=2, max_length=MOST)
    standard_deviation: float = Field(ge=0, le=1)  # of a sample of accuracies
    pairs: tuple[Pair, ...] = Field(max_length=MOST * (MOST - 1) // 2)
    false_alarms: Count  # pairs with p < alpha

    @model_validator(mode="after")
    def agree(self) -> Self:
        """Refuse numbers that do not agree with each other."""
        seeds = [run.seed for run in self.runs]
        found = (
            len(set(seeds)),
            len({run.total for run in self.runs}),
            [run.accuracy for run in self.runs],
            self.standard_deviation,
            [pair.seeds for pair in self.pairs],
            self.false_alarms,
        )
        expected = (
            len(seeds),
            1,
            [round(run.correct / run.total, 6) for run in self.runs],
            spread(self.runs),
            list(combinations(seeds, 2)),
            sum(pair.p_value < self.alpha for pair in self.pairs),
        )
        if found != expected:
            raise ValueError("expected numbers that agree with each other")
        return self


def spread(runs: tuple[Run, ...]) -> float:
    """Standard deviation of the accuracy over at least two runs (n - 1), to eight digits."""
    return round(stdev(run.accuracy for run in runs), 8)


def configuration(params_text: str, lock_text: str) -> str:
    """SHA-256 of what decides a result apart from the seed, as params.yaml and dvc.lock have it.

    The sections data, runtime, train without its seed, and evaluate; the MD5s of the modules that
    the stages train and evaluate depend on. InputError where one of them is not there.
    """
    params, lock = load_yaml(params_text, PARAMS), load_yaml(lock_text, LOCK)
    parts: dict[str, dict[str, Any]] = {"code": {}}
    for section in SECTIONS:
        if section not in params:
            raise InputError(f"{PARAMS}: {section}: expected a section of this name, found none")
        parts[section] = flatten(params[section], PARAMS)
    parts["train"].pop("seed", None)
    for stage in ("train", "evaluate"):
        deps = hashes(lock, stage, "deps").items()
        parts["code"] |= {path: md5 for path, md5 in deps if path.startswith("src/")}
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(content.encode()).hexdigest()
