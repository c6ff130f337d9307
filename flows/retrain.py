"""Keep the published model true to main: run what changed, gate the result, publish it.

python -m flows.retrain    # once, with the defaults, on the server that Prefect's profile names
"""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field
from ruamel.yaml import YAML

from flows.clones import clone, set_params
from flows.gate import RefusedError, check
from flows.publish import MovedError, push
from flows.stages import run_stage

PROGRESS = re.compile(r"Train Epoch: (\d+) ")
MOVES = 3  # how often the branch may move on while a run is under way

Where = Literal["none", "branch", "main"]
Key = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]  # train.lr
Overrides = Annotated[  # pydantic's schema has the keys' pattern, but would let others through
    dict[Key, bool | int | float | str], Field(json_schema_extra={"additionalProperties": False})
]


@flow(name="retrain")
def retrain(  # noqa: PLR0913, PLR0917 (the parameters of the deployment)
    repository: str = "",
    branch: str = "main",
    overrides: Overrides | None = None,
    force: bool = False,
    publish: Where = "branch",
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05,
) -> State[None]:
    """Bring the model of a branch's tip up to date.

    Args:
        repository: what to clone; empty: where this project's checkout came from.
        branch: whose tip to work on.
        overrides: parameters to try, such as {"train.lr": 0.5}; never together with publish=main.
        force: run stages that did not change, too.
        publish: push the result to a branch of its own, to the branch itself, or not at all.
        alpha: level of the test against the published model.
    """
    if overrides and publish == "main":
        return refused("overrides: expected none with publish=main, since main says what counts")
    for _ in range(MOVES):
        try:
            with clone(repository, branch) as folder:
                set_params(folder, overrides or {})
                done: State[Any] = run_stages(folder, flags(folder, force))
                if done.is_completed() and publish != "none":
                    done = publish_result(folder, branch, publish, alpha, return_state=True)
        except RefusedError as error:
            return refused(str(error))
        if done.name != "Moved":
            # A state of the flow's own: Prefect would sum a task's up as "all completed".
            return State(type=done.type, name=done.name, message=done.message)
        get_run_logger().info("%s has moved on: starting over from its new tip", branch)
    return refused(f"{branch} moved on {MOVES} times while this run was under way")


def flags(folder: Path, force: bool) -> list[str]:
    """How dvc repro is to go about it: with what a DVC remote has, where there is one."""
    command = ["dvc", "config", "core.remote"]
    remote = subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout
    return ["--force"] * force + ["--pull"] * bool(remote)


def run_stages(folder: Path, flags: list[str]) -> State[Any]:
    """The four stages in order, up to one that fails; a table of them and of the metrics."""
    rows = []
    for step in (download, train, evaluate, save):
        begin = time.monotonic()
        state: State[Any] = step(folder, flags, return_state=True)
        seconds = round(time.monotonic() - begin, 1)
        rows.append({"stage": step.name, "state": state.name, "seconds": seconds})
        if not state.is_completed():
            break
    create_table_artifact(key="retrain-stages", table=rows)
    create_markdown_artifact(key="retrain-metrics", markdown=metrics_diff(folder))
    if not state.is_completed():
        return Failed(message=f"{step.name}: {state.message}")
    return Completed(message=", ".join(f"{row['stage']} {row['state']}" for row in rows))


@task(cache_policy=NO_CACHE, retries=4, retry_delay_seconds=[5, 20, 60, 180])
def download(folder: Path, flags: list[str]) -> State[None]:
    """The data; a mirror may be down for a while."""
    return stage("download", folder, flags)


@task(cache_policy=NO_CACHE, retries=1)
def train(folder: Path, flags: list[str]) -> State[None]:
    """The weights; a second attempt goes on after the last finished epoch."""
    epochs = YAML(typ="safe").load(folder / "params.yaml")["train"]["epochs"]
    return stage("train", folder, flags, show_progress(epochs))


@task(cache_policy=NO_CACHE)
def evaluate(folder: Path, flags: list[str]) -> State[None]:
    """The metrics."""
    return stage("evaluate", folder, flags)


@task(cache_policy=NO_CACHE)
def save(folder: Path, flags: list[str]) -> State[None]:
    """The model for others."""
    return stage("save", folder, flags)


@task(cache_policy=NO_CACHE, name="publish")
def publish_result(folder: Path, branch: str, where: Where, alpha: float) -> State[None]:
    """The gate, then the push."""
    try:
        verdict = check(folder, where, alpha)
        return Completed(message=f"{push(folder, branch, where, verdict)}: {verdict}")
    except RefusedError as error:
        return refused(str(error))
    except MovedError:
        return Failed(name="Moved", message=f"{branch} has moved on")


def stage(
    name: str, folder: Path, flags: list[str], watch: Callable[[str], None] = lambda _: None
) -> State[None]:
    """Run a DVC stage, its output in the task's log."""
    logger = get_run_logger()

    def say(line: str) -> None:
        logger.info(line)
        watch(line)

    worked = run_stage(name, folder, flags, say)
    return Completed() if worked else Completed(name="Cached", message="DVC had nothing to do")


def show_progress(epochs: int) -> Callable[[str], None]:
    """An artifact of the epochs done, in percent, kept up to date by training's own lines."""
    artifact: UUID | None = None
    shown = 0

    def watch(line: str) -> None:
        nonlocal artifact, shown
        found = PROGRESS.match(line)
        if found and int(found[1]) > shown:
            shown = int(found[1])
            done = 100.0 * (shown - 1) / epochs
            if artifact is None:
                artifact = cast(UUID, create_progress_artifact(done, key="retrain-epochs"))
            else:
                update_progress_artifact(artifact, done)
        elif artifact and line.startswith("Updating lock file"):
            update_progress_artifact(artifact, 100.0)

    return watch


def metrics_diff(folder: Path) -> str:
    """dvc metrics diff against the branch's tip, as Markdown."""
    command = ["dvc", "metrics", "diff", "--md", "--targets", "metrics/metrics.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout if "metrics.json" in done.stdout else "No difference."


def refused(reason: str) -> State[None]:
    """The end of a run that publishes nothing."""
    return Failed(name="Refused", message=reason)


if __name__ == "__main__":
    state = retrain(return_state=True)  # the log has said how it ended: no traceback for a refusal
    sys.exit(0 if state.is_completed() else 1)
