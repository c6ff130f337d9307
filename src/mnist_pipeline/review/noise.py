"""Train with other seeds, and write to metrics/noise.json how far the results differ.

The committed configuration is trained in a clone that shares this checkout's DVC cache. A seed
that was trained before is not trained again, and an interrupted training goes on.
"""

import argparse
import hashlib
import json
import tempfile
from collections.abc import Callable
from itertools import combinations, count, islice
from pathlib import Path
from statistics import stdev
from typing import Any

from dvc.utils.flatten import flatten
from pydantic import Field

from mnist_pipeline import files
from mnist_pipeline.files import InputError, parse_yaml, read_text
from mnist_pipeline.review.audit import reproduce, warn_of_changes
from mnist_pipeline.review.git import clone
from mnist_pipeline.review.result import LOCK, Result, inputs, read_result
from mnist_pipeline.review.schema import Spread
from mnist_pipeline.review.statistics import ALPHA, compare, reach

NOISE = Path("metrics/noise.json")


class Noise(files.Record):
    """metrics/noise.json."""

    configuration: str
    alpha: float
    runs: list[dict[str, Any]] = Field(min_length=2)  # one for each training: seed and result
    standard_deviation: float = Field(ge=0, le=1)  # of a sample of accuracies
    pairs: list[dict[str, Any]]  # two runs each, compared as if the second were a change
    false_alarms: int  # pairs with p < alpha


def main(train: Callable[[Path, list[int]], dict[int, Result]] | None = None) -> None:
    """Measure the noise of the committed configuration, trained here or by `train`.

    `train` gets a clone of this checkout and the seeds, and returns the results by seed.
    """
    parser = argparse.ArgumentParser(description="Train with other seeds; write metrics/noise.json")
    parser.add_argument("--seeds", type=int, default=5, help="how many, at least 2; default 5")
    number = parser.parse_args().seeds
    if number < 2:
        raise InputError(f"--seeds: expected at least 2, found {number}")
    warn_of_changes("the noise")
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-noise-") as name:
        folder = clone(".", Path(name) / "clone", files.dvc_cache())
        results = (train or _train)(folder, _seeds(folder, number))
        noise = measure(results, configuration(folder))
    files.write_atomically(NOISE, (noise.model_dump_json(indent=2) + "\n").encode())
    print(f"{NOISE}: standard deviation {100 * noise.standard_deviation:.3f} points of accuracy")
    print(f"{noise.false_alarms} of {len(noise.pairs)} pairs of seeds have p < {ALPHA}")


def _seeds(folder: Path, number: int) -> list[int]:
    """The committed seed, then the smallest others from 1; InputError for a dry run."""
    train = files.read_params(folder)["train"]
    if train.get("dry_run"):
        raise InputError(f"{files.PARAMS}: train.dry_run: expected false, as dry runs say nothing")
    others = (seed for seed in count(1) if seed != train["seed"])
    return [train["seed"], *islice(others, number - 1)]


def _train(folder: Path, seeds: list[int]) -> dict[int, Result]:
    """Train a clone with these seeds, or take the results from DVC's run-cache."""
    (folder / LOCK).unlink(missing_ok=True)  # may be another machine's; the run-cache is this one's
    reproduce(folder, "repro", "evaluate")  # a new lock: without one, dvc exp run warns
    results = {}
    for seed in seeds:
        reproduce(folder, "exp", "run", "evaluate", "--set-param", f"train.seed={seed}")
        results[seed] = found = read_result(folder)
        print(f"seed {seed}: {found.metrics.correct:,} of {found.metrics.total:,} test images")
    return results


def measure(results: dict[int, Result], configuration: str) -> Noise:
    """The content of metrics/noise.json, from results by seed on the same test images."""
    runs: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for seed, result in results.items():
        metrics = result.metrics
        counts = {"correct": metrics.correct, "total": metrics.total}
        runs.append({"seed": seed, **counts, "accuracy": metrics.accuracy})
    for seeds in combinations(results, 2):
        _, fixed, broken, p_value = compare(*(results[seed] for seed in seeds))
        counts = {"fixed": len(fixed), "broken": len(broken)}
        pairs.append({"seeds": seeds, **counts, "p_value": float(f"{p_value:.6g}")})
    return Noise(
        configuration=configuration,
        alpha=ALPHA,
        runs=runs,
        standard_deviation=round(stdev(run["accuracy"] for run in runs), 8),
        pairs=pairs,
        false_alarms=sum(pair["p_value"] < ALPHA for pair in pairs),
    )


def configuration(folder: Path) -> str:
    """SHA-256 of what decides a folder's result apart from the seed and the new images.

    That is what dvc.lock says of the stages train and evaluate: command, parameters, inputs.
    """
    lock = parse_yaml(read_text(folder / LOCK), LOCK)
    parts = []
    for stage in ("train", "evaluate"):
        read, ran = inputs(lock, stage), lock["stages"][stage]
        params = flatten(ran.get("params", {}))
        params.pop(f"{files.PARAMS}.train.seed", None)
        parts += [ran["cmd"], params, read]
    content = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def read_spread(folders: list[Path]) -> Spread | None:
    """The spread in the first noise.json that belongs to one of the folders' configurations."""
    for path in (folder / NOISE for folder in folders):
        if not path.exists():
            continue
        tree = files.parse_json(read_text(path), str(NOISE))
        noise = files.validate(Noise, tree, str(NOISE))
        if noise.configuration in [configuration(folder) for folder in folders]:
            return Spread(
                runs=len(noise.runs),
                standard_deviation=noise.standard_deviation,
                reach=reach(noise.standard_deviation, len(noise.runs)),
                pairs=len(noise.pairs),
                false_alarms=noise.false_alarms,
            )
    return None
