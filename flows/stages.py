"""The four stages of the pipeline as tasks of Prefect: each launches its DVC stage."""

from pathlib import Path
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.clones import ROOT
from flows.repro import has_remote, run_dvc, run_stage
from mnist_pipeline.files import InputError, parse_yaml, read_text
from mnist_pipeline.review.git import data_files, git

AWAY: list[float] = [5, 20, 60, 180]  # seconds to wait for git, the DVC remote or a mirror


def run_stages(folder: Path, force: bool) -> State[Any]:
    """Run the four stages in order, up to one that fails: Refused if it would fail again.

    Refused, too, if dvc.yaml has another stage, since that would never run. First it fetches data
    that dvc add or dvc import tracks; InputError if that cannot be had.
    """
    there = parse_yaml(read_text(folder / "dvc.yaml"), "dvc.yaml").get("stages", {})
    if others := there.keys() - {stage.name for stage in STAGES}:
        what = f"expected a task for each stage in {ROOT}/flows/stages.py (pull there?), found none"
        return refused(f"dvc.yaml: {', '.join(sorted(others))}: {what}")
    if data := data_files(folder):
        run_dvc(folder, "pull", *data)
    flags = ["--force"] if force else []
    if has_remote(folder):
        flags.append("--pull")  # what was published need not run again
    for stage in STAGES:
        try:
            stage(stage.name, folder, flags)
        except InputError as error:
            return refused(f"{stage.name}: {error}")
        except RuntimeError as error:
            return Failed(message=f"{stage.name}: {error}")
    return Completed()


def may_help(_task: Any, _run: Any, state: State[Any]) -> bool:
    """Whether another attempt at a stage may help: it was killed, or a remote is away."""
    return not isinstance(state.data, InputError)


def refused(message: str) -> State[None]:
    """The end of a run that publishes nothing."""
    return Failed(name="Refused", message=message)


@task(cache_policy=NO_CACHE, name="connect", retries=len(AWAY), retry_delay_seconds=AWAY)
def connect(repository: str) -> None:
    """Have git's remote answer once: a machine that has just woken up may have no network yet."""
    git(ROOT, "ls-remote", repository or "origin", "HEAD")


@task(cache_policy=NO_CACHE)
def run_task(stage: str, folder: Path, flags: list[str]) -> State[None]:
    """Run a DVC stage, its output in the task's log. Cached means that DVC had nothing to do."""
    worked = run_stage(stage, folder, flags, get_run_logger().info)
    return Completed() if worked else Completed(name="Cached", message="DVC had nothing to do")


STAGES = (
    run_task.with_options(
        name="download",
        retries=len(AWAY),  # a mirror may be down for a while
        retry_delay_seconds=AWAY,
        retry_condition_fn=may_help,
    ),
    # The second attempt continues after the last finished epoch.
    run_task.with_options(name="train", retries=1, retry_condition_fn=may_help),
    run_task.with_options(name="evaluate"),
    run_task.with_options(name="save"),
)
