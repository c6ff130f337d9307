"""Keep the published model up to date: run what changed, judge the result, publish it.

python -m flows.retrain    # once, with the defaults, on the server that Prefect's profile names
"""

import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from prefect import artifacts, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.clones import override_params, temporary_clone
from flows.gate import RefusedError, approve
from flows.publish import push
from flows.repro import has_remote, run_dvc, run_stage
from flows.versions import taken_back
from mnist_pipeline.files import METRICS, InputError, parse_yaml, read_text
from mnist_pipeline.params import PATH
from mnist_pipeline.review.statistics import ALPHA

EPOCH = re.compile(r"Train Epoch: (\d+) \[0/")  # its first line
ATTEMPTS = 3  # the branch may move while a run is under way

Where = Literal["none", "branch", "main"]
Key = Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")]  # train.lr
Value = bool | int | float | str
Overrides = Annotated[  # pydantic's schema has the keys' pattern, but would let others through
    dict[Key, Value], Field(json_schema_extra={"additionalProperties": False})
]


@flow(name="retrain")
def retrain(  # noqa: PLR0913, PLR0917 (the parameters of the deployment)
    repository: str = "",
    branch: str = "main",
    overrides: Overrides | None = None,
    force: bool = False,
    publish: Where = "branch",
    alpha: Annotated[float, Field(gt=0, lt=1)] = ALPHA,
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
        return refused("overrides are for trying: publish=main takes its parameters from main")
    for _ in range(ATTEMPTS):
        try:
            with temporary_clone(repository, branch) as folder:
                if overrides:
                    override_params(folder, overrides)
                end = run_stages(folder, force)
                if end.is_completed():
                    show_metrics(folder)
                if end.is_completed() and publish != "none":
                    end = publish_result(folder, branch, publish, alpha, return_state=True)
        except (RefusedError, InputError) as error:
            return refused(str(error))
        if end.name != "Moved":
            # A state of the flow's own: Prefect would sum a task's up as "all completed".
            return State(type=end.type, name=end.name, message=end.message)
        get_run_logger().info("%s has new commits: starting over from its tip", branch)
    return refused(f"{branch} got new commits during each of {ATTEMPTS} attempts")


def run_stages(folder: Path, force: bool) -> State[Any]:
    """The four stages in order, up to one that fails."""
    flags = ["--force"] if force else []
    if has_remote(folder):
        flags.append("--pull")  # what was published need not run again
    for stage in STAGES:
        state: State[Any] = stage(stage.name, folder, flags, return_state=True)
        if not state.is_completed():
            why = str(state.message).rpartition("RuntimeError: ")[2]  # as Prefect puts it
            return Failed(message=f"{stage.name}: {why}")
    return Completed()


def show_metrics(folder: Path) -> None:
    """How a clone's metrics differ from its commit's, as an artifact."""
    table = run_dvc(folder, "metrics", "diff", "--md", "--targets", str(METRICS))
    shown = table if str(METRICS) in table else "No difference."
    artifacts.create_markdown_artifact(shown, key="retrain-metrics")


@task(cache_policy=NO_CACHE)
def run_task(stage: str, folder: Path, flags: list[str]) -> State[None]:
    """A DVC stage, its output in the task's log. Cached means that DVC had nothing to do."""
    logger = get_run_logger()
    epochs = parse_yaml(read_text(folder / PATH), str(PATH))["train"]["epochs"]
    progress: UUID | None = None

    def say(line: str) -> None:
        nonlocal progress
        logger.info(line)
        if found := EPOCH.match(line):
            if progress is None:
                progress = cast(
                    UUID, artifacts.create_progress_artifact(0, key=f"{flow_run.flow_name}-epochs")
                )
            artifacts.update_progress_artifact(progress, 100 * (int(found[1]) - 1) / epochs)

    worked = run_stage(stage, folder, flags, say)
    if progress:
        artifacts.update_progress_artifact(progress, 100)
    return Completed() if worked else Completed(name="Cached", message="DVC had nothing to do")


STAGES = (
    # A mirror may be down for a while.
    run_task.with_options(name="download", retries=4, retry_delay_seconds=[5, 20, 60, 180]),
    # The second attempt continues after the last finished epoch.
    run_task.with_options(name="train", retries=1),
    run_task.with_options(name="evaluate"),
    run_task.with_options(name="save"),
)


@task(cache_policy=NO_CACHE, name="publish")
def publish_result(folder: Path, branch: str, publish: Where, alpha: float) -> State[None]:
    """The gate, then the push; neither for a version that was taken out of production."""
    try:
        if publish == "main" and (version := taken_back(folder)):
            again = f"make rollback VERSION={version.name} brings it back"
            message = f"nothing published: this is {version.name}, out of production; {again}"
            return Completed(message=message)
        verdict = approve(folder, publish, alpha)
        target = push(folder, branch, publish, verdict)
    except (RefusedError, InputError) as error:
        return refused(str(error))
    if target is None:
        return Failed(name="Moved", message=f"{branch} has new commits")
    return Completed(message=f"{target}: {verdict}")


def refused(reason: str) -> State[None]:
    """The end of a run that publishes nothing."""
    return Failed(name="Refused", message=reason)


if __name__ == "__main__":
    state = retrain(return_state=True)  # the log has said how it ended: no traceback for a refusal
    sys.exit(0 if state.is_completed() else 1)
