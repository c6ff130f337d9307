"""Keep the published model up to date: run what changed, judge the result, publish it."""

from pathlib import Path
from typing import Annotated, Literal

from gto.exceptions import GTOException
from prefect import artifacts, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from flows.clones import Overrides, override_params, temporary_clone
from flows.gate import approve
from flows.publish import push
from flows.repro import require_remote, run_dvc
from flows.stages import connect, refused, run_stages
from flows.versions import taken_back
from mnist_pipeline.files import METRICS, InputError
from mnist_pipeline.review.git import git
from mnist_pipeline.review.statistics import ALPHA
from mnist_pipeline.use.versions import ARTIFACT, PROD, read_tags

ATTEMPTS = 3  # the branch may move while a run is under way

Where = Literal["none", "branch", "main"]


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
        branch: whose tip to work on, or a commit; for publish=main, a branch.
        overrides: parameters to try, such as {"train.lr": 0.5}; never together with publish=main.
        force: run stages that did not change, too.
        publish: where to push the result: branch, to a branch of its own; main, to `branch` itself,
            as the next version; none, nowhere.
        alpha: significance level of the test against the published model.
    """
    if overrides and publish == "main":
        return refused("overrides are for trying: publish=main takes its parameters from main")
    for _ in range(ATTEMPTS):
        try:
            connect(repository)
            with temporary_clone(repository, branch) as folder:
                theirs = ("branch", "--remotes", "--list", f"origin/{branch}")
                if publish == "main" and not git(folder, *theirs):  # it may be a commit
                    raise InputError(f"branch: expected a branch of origin, found {branch}")
                if publish != "none":
                    require_remote(folder)  # before hours of training
                if overrides:
                    override_params(folder, overrides)
                end = run_stages(folder, force)
                if end.is_completed():
                    show_metrics(folder)
                if end.is_completed() and publish != "none":
                    connect(repository)  # hours may have passed
                    end = publish_result(folder, branch, publish, alpha, return_state=True)
        except InputError as error:
            return refused(str(error))
        if end.name != "Moved":
            # A new state, as Prefect would sum up the state of a task as "All states completed."
            return State(type=end.type, name=end.name, message=end.message)
        get_run_logger().info("%s has new commits: starting over from its tip", branch)
    return refused(f"{branch} got new commits, or was locked, during each of {ATTEMPTS} attempts")


def show_metrics(folder: Path) -> None:
    """Show how a clone's metrics differ from production's, or its commit's, as an artifact."""
    prod = read_tags(str(folder)).in_stage(PROD)
    base = [f"{ARTIFACT}@{prod.name}"] if prod else []
    table = run_dvc(folder, "metrics", "diff", *base, "--md", "--targets", str(METRICS))
    shown = table if str(METRICS) in table else "No difference."
    artifacts.create_markdown_artifact(shown, key="retrain-metrics")


@task(cache_policy=NO_CACHE, name="publish")
def publish_result(folder: Path, branch: str, publish: Where, alpha: float) -> State[None]:
    """Ask the gate, then push. Do neither for a version that was taken out of production."""
    try:
        if publish == "main" and (version := taken_back(folder)):
            again = f"make rollback VERSION={version.name} brings it back"
            message = f"nothing published: {version.name} was taken out of production; {again}"
            return Completed(message=message)
        verdict = approve(folder, publish, alpha)
        target = push(folder, branch, publish, verdict)
    except (InputError, GTOException) as error:
        return refused(str(error))
    if target is None:
        return Completed(name="Moved", message=f"{branch} has new commits")
    return Completed(message=f"{target}: {verdict}")
