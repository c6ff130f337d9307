"""make noise: how far do results differ that differ in their seeds alone?

PYTHONPATH=src python -m mnist_pipeline.noise --seeds 5

Trains the committed configuration with other seeds, in a clone that shares this checkout's DVC
cache: a seed that was trained before is not trained again, and an interrupted one goes on.
"""

import argparse
import subprocess
import tempfile
from itertools import combinations, count, islice
from pathlib import Path

from mnist_pipeline.audit import clone, reproduce, warn_of_changes
from mnist_pipeline.compare import ALPHA, compare
from mnist_pipeline.noise_file import MOST, PATH, Noise, Pair, Run, configuration, spread
from mnist_pipeline.params import load
from mnist_pipeline.results import Result, result
from mnist_pipeline.stage import InputError, run, write_atomically
from mnist_pipeline.train import TrainParams


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with other seeds; write metrics/noise.json")
    parser.add_argument("--seeds", type=int, default=5, help=f"how many, 2 to {MOST}; default 5")
    number = parser.parse_args().seeds
    if not 2 <= number <= MOST:
        raise InputError(f"--seeds: expected 2 to {MOST}, found {number}")
    warn_of_changes("the noise")
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-noise-") as name:
        folder = clone(Path(name) / "clone", cache())
        numbers = seeds(folder, number)
        (folder / "dvc.lock").unlink()  # may be another machine's; the run-cache is this one's
        reproduce(folder, (), ("evaluate",))  # a new lock: without one, dvc exp run warns at length
        results = {seed: train(folder, seed) for seed in numbers}
        texts = [(folder / path).read_text() for path in ("params.yaml", "dvc.lock")]
    noise = measure(results, configuration(*texts))
    write_atomically(PATH, (noise.model_dump_json(indent=2) + "\n").encode())
    print(f"{PATH}: standard deviation {100 * noise.standard_deviation:.3f} points of accuracy")
    print(f"{noise.false_alarms} of {len(noise.pairs)} pairs of seeds have p < {ALPHA}")


def cache() -> Path:
    """This checkout's DVC cache, wherever it is configured to be."""
    command = ["dvc", "cache", "dir"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise InputError(f".: expected a DVC repository, found: {done.stderr}")
    return Path(done.stdout.strip()).resolve()


def seeds(folder: Path, number: int) -> list[int]:
    """The clone's committed seed, then the least others from 1; InputError for a dry run."""
    params = load("train", TrainParams, folder / "params.yaml")
    if params.dry_run:
        raise InputError("params.yaml: train.dry_run: expected false, as dry runs say nothing")
    others = (seed for seed in count(1) if seed != params.seed)
    return [params.seed, *islice(others, number - 1)]


def train(folder: Path, seed: int) -> Result:
    """The clone's result with a seed, from DVC's run-cache where it is there."""
    reproduce(folder, (f"train.seed={seed}",), ("evaluate",))
    found = result(folder)
    correct, total = found.metrics.correct, found.metrics.total
    print(f"seed {seed}: {correct:,} of {total:,} test images", flush=True)
    return found


def measure(results: dict[int, Result], configuration: str) -> Noise:
    """What metrics/noise.json says of the results by seed, which share their test images."""
    pairs = []
    for first, second in combinations(results, 2):
        found = compare(results[first], results[second])
        p_value = float(f"{found.p_value:.6g}")  # as stable as the counts it comes from
        pairs.append(
            Pair(
                seeds=(first, second),
                fixed=len(found.fixed),
                broken=len(found.broken),
                p_value=p_value,
            )
        )
    runs = tuple(
        Run(seed=seed, correct=one.correct, total=one.total, accuracy=one.accuracy)
        for seed, (one, _, _) in results.items()
    )
    return Noise(
        configuration=configuration,
        alpha=ALPHA,
        runs=runs,
        standard_deviation=spread(runs),
        pairs=tuple(pairs),
        false_alarms=sum(pair.p_value < ALPHA for pair in pairs),
    )


if __name__ == "__main__":
    run(main)
