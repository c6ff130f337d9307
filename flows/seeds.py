"""make noise: train the seeds by a search if the pool has workers, else on this machine.

python -m flows.seeds --seeds 5
"""

from contextlib import suppress
from pathlib import Path

from prefect.settings import get_current_settings

from flows import command
from flows.clones import ROOT
from flows.coordinator import name_of, online
from flows.publish import COMMITTED
from flows.search import search_here
from flows.trial import ref_of
from mnist_pipeline.files import InputError
from mnist_pipeline.review import noise
from mnist_pipeline.review.git import git
from mnist_pipeline.review.ranking import SEED
from mnist_pipeline.review.result import Result, read_result


def train(folder: Path, seeds: list[int]) -> dict[int, Result]:
    """Train a clone's commit with these seeds, as experiments on origin; returns the results."""
    commit = git(folder, "rev-parse", "HEAD").strip()
    state = search_here(grid={SEED: seeds}, branch=commit, parallel=min(200, online()))
    if not state.is_completed():
        raise InputError(f"search: {state.message}")
    origin, results = git(ROOT, "remote", "get-url", "origin").strip(), {}
    for seed in seeds:
        git(folder, "fetch", "--quiet", origin, ref_of(commit, name_of(commit, {SEED: seed})))
        git(folder, "checkout", "--quiet", "FETCH_HEAD", "--", *COMMITTED)
        results[seed] = read_result(folder)
    return results


if __name__ == "__main__":
    workers = 0
    with suppress(InputError):  # no server, no pool
        workers = online() if get_current_settings().api.url else 0
    with command():
        noise.main(train if workers else None)
