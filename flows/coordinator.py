"""The trials of a search as its coordinator sees them: runs to order, experiments to read."""

import hashlib
import json
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import artifacts, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import TERMINAL_STATES, State, StateType, WorkerStatus
from prefect.exceptions import CancelledRun, ExternalSignal, ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Cancelling, Scheduled

from flows.clones import Overrides
from flows.schedule import POOL
from flows.stages import AWAY
from flows.trial import ref_of
from mnist_pipeline.files import HISTORY, InputError
from mnist_pipeline.review.git import git
from mnist_pipeline.review.ranking import FAULT, NAME, SCORE, last_accuracy

DEPLOYMENT = "trial/search"
FINAL = ("Refused", "Cancelled")  # ends after which a trial is not tried again
POLL = 2  # seconds between two looks at the runs
DELAYS = (0, 30, 120)  # seconds before each attempt at a trial


def online() -> int:
    """How many workers can take a trial. InputError if server, pool or deployment is missing."""
    url = get_current_settings().api.url
    try:
        with get_client(sync_client=True) as client:
            found = client.read_workers_for_work_pool(POOL)
            client.read_deployment_by_name(DEPLOYMENT)
    except (ObjectNotFound, httpx.HTTPError, RuntimeError) as error:
        what = f"expected a server with the pool {POOL} and the deployment {DEPLOYMENT}"
        raise InputError(f"PREFECT_API_URL: {what} at {url}: {error}") from error
    return sum(worker.status == WorkerStatus.ONLINE for worker in found)


def name_of(commit: str, overrides: Overrides) -> str:
    """The experiment's name: for the same commit and parameters it is the same everywhere."""
    return f"trial-{hash_of([commit, overrides])[:12]}"


def hash_of(values: list[Any]) -> str:
    """SHA-256 of plain values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Trials:
    """The trials of one commit: ordered from the workers, and read from git."""

    def __init__(
        self, folder: Path, repository: str, parallel: int, seeds: list[Overrides], points: int
    ) -> None:
        self.folder, self.repository, self.parallel = folder, repository, parallel
        self.commit = git(folder, "rev-parse", "HEAD").strip()
        self.seeds, self.total, self.trained = seeds, points * len(seeds), 0
        self.progress = cast(UUID, artifacts.create_progress_artifact(0, key="search-trials"))
        self.rows: dict[str, dict[str, Any]] = {}  # one for each trial, for review/ranking.py

    def score(self, points: list[Overrides]) -> list[float]:
        """The mean validation accuracy of each point over the seeds; failed trials count as 0."""
        groups = [[point | seed for seed in self.seeds] for point in points]
        trials = {name_of(self.commit, one): one for group in groups for one in group}
        scores, faults = self.train(trials)
        for name, one in trials.items():
            found = {SCORE: scores.get(name), NAME: name, FAULT: faults.get(name, "")}
            self.rows[name] = one | found
        return [
            mean(scores.get(name_of(self.commit, one), 0.0) for one in group) for group in groups
        ]

    def train(self, trials: dict[str, Overrides]) -> tuple[dict[str, float], dict[str, str]]:
        """Train the trials that origin lacks; returns all accuracies, and why trials failed."""
        scores, faults = fetch(self.folder, self.commit, [*trials]), dict[str, str]()
        self.advance(len(scores))
        left = {name: one for name, one in trials.items() if name not in scores}
        for delay in DELAYS:
            if left:
                ends = self.run(left, delay)
                scores |= fetch(self.folder, self.commit, [*left])
                faults |= {name: f"{end.name}: {end.message}" for name, end in ends.items()}
                final = {name for name, end in ends.items() if end.name in FINAL} | {*scores}
                left = {name: one for name, one in left.items() if name not in final}
        return scores, {name: fault for name, fault in faults.items() if name not in scores}

    def run(self, trials: dict[str, Overrides], delay: int) -> dict[str, State]:
        """Run each trial once, `parallel` at a time; returns how the runs ended.

        An interrupt or a cancellation ends all of them. If the search dies otherwise, they go on,
        and the next search for the same trials waits for these runs.
        """
        waiting, running, ends = [*trials], dict[UUID, str](), dict[str, State]()
        with get_client(sync_client=True) as client:
            try:
                while waiting or running:
                    for name in waiting[: self.parallel - len(running)]:
                        running[self.submit(client, name, trials[name], delay)] = name
                        waiting.remove(name)
                    for run, end in ended(client, [*running]).items():
                        ends[running.pop(run)] = end
                        self.advance(end.is_completed())
            except (CancelledRun, KeyboardInterrupt, ExternalSignal):
                while running:
                    run = next(iter(running))
                    with suppress(ExternalSignal):  # the worker's, which may come just now
                        with suppress(ObjectNotFound):  # somebody has deleted the run
                            client.set_flow_run_state(run, Cancelling())
                        del running[run]
                raise
        return ends

    def submit(
        self, client: SyncPrefectClient, name: str, overrides: Overrides, delay: int
    ) -> UUID:
        """Order a run of a trial, or find the one that is under way; returns its id."""
        over = [*TERMINAL_STATES, StateType.CANCELLING]
        where = {"name": {"any_": [name]}, "state": {"type": {"any_": over}}}
        before = client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(where))
        identity = {"repository": self.repository, "commit": self.commit, "name": name}
        return client.create_flow_run_from_deployment(
            client.read_deployment_by_name(DEPLOYMENT).id,
            name=name,
            parameters=identity | {"overrides": overrides},
            state=Scheduled(scheduled_time=datetime.now(UTC) + timedelta(seconds=delay)),
            # While a run is under way, the same key finds it. Once it has ended, the key changes.
            idempotency_key=hash_of([name, *sorted(str(run.id) for run in before)]),
        ).id

    def advance(self, number: int) -> None:
        """Report that `number` more trials are trained."""
        if number:
            self.trained += number
            get_run_logger().info("%d of %d trials trained", self.trained, self.total)
            artifacts.update_progress_artifact(self.progress, 100 * self.trained / self.total)


@task(cache_policy=NO_CACHE, name="fetch", retries=len(AWAY), retry_delay_seconds=AWAY)
def fetch(folder: Path, commit: str, names: list[str]) -> dict[str, float]:
    """Name → last validation accuracy, of those of a commit's trials that a clone's origin has."""
    there = git(folder, "ls-remote", "origin", ref_of(commit, "trial-*")).split()[1::2]
    wanted = [ref for ref in there if Path(ref).name in names]
    if wanted:
        git(folder, "fetch", "--quiet", "origin", *(f"+{ref}:{ref}" for ref in wanted))
    return {
        Path(ref).name: last_accuracy(git(folder, "show", f"{ref}:{HISTORY}")) for ref in wanted
    }


def ended(client: SyncPrefectClient, runs: list[UUID]) -> dict[UUID, State]:
    """Wait a moment, then find the runs that have ended. CancelledRun if this run is cancelled.

    A run that somebody has deleted counts as cancelled.
    """
    time.sleep(POLL)
    if (ours := client.read_flow_run(UUID(flow_run.id)).state) and ours.is_cancelling():
        raise CancelledRun
    where = FlowRunFilter.model_validate({"id": {"any_": runs}})
    found = {run.id: run.state for run in client.read_flow_runs(flow_run_filter=where)}
    ends = {run: found.get(run, Cancelled(message="its run was deleted")) for run in runs}
    return {run: end for run, end in ends.items() if end and end.is_final()}
