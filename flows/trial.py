"""One training of a search, on whatever machine: the four stages, then an experiment of DVC."""

from pathlib import Path

from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.clones import Overrides, override_params, temporary_clone
from flows.publish import commit_result
from flows.repro import has_remote, run_dvc
from flows.stages import AWAY, STAGES, refused, run_stages
from mnist_pipeline import leash
from mnist_pipeline.files import InputError
from mnist_pipeline.review.git import git

# Only save, the last stage, says this: of a model of too little accuracy, which it does not export.
FLOOR = "expected at least save.min_accuracy"


@flow(name="trial")
def trial(repository: str, commit: str, overrides: Overrides, name: str) -> State[None]:
    """Train a commit with other parameters, and push the result as an experiment.

    Refused if another attempt would not help: a key is unknown, or a stage says what is wrong.
    """
    if runtime.deployment.id:  # end with the worker: nobody else ends it, and another trains it
        leash.take()
    with temporary_clone(repository, commit) as folder:
        try:
            override_params(folder, overrides)
        except InputError as error:
            return refused(str(error))
        end = run_stages(folder, force=False)
        exported, why = end.is_completed(), str(end.message)
        if not exported and not (end.name == "Refused" and FLOOR in why):
            return end
        # To DVC, a commit under such a ref is an experiment; dvc exp save would take seconds.
        ref = ref_of(git(folder, "rev-parse", "HEAD").strip(), name)
        commit_result(folder, name)
        done = [] if exported else [stage.name for stage in STAGES[:-1]]
        push_experiment(folder, ref, done)
        return Completed(message=name if exported else f"{name}, without a model: {why}")


@task(cache_policy=NO_CACHE, name="push", retries=len(AWAY), retry_delay_seconds=AWAY)
def push_experiment(folder: Path, ref: str, stages: list[str]) -> None:
    """Push a clone's data, of all stages or of some, and then its tip as an experiment."""
    if has_remote(folder):
        run_dvc(folder, "push", *stages)
    git(folder, "push", "--quiet", "--force", "origin", f"HEAD:{ref}")


def ref_of(commit: str, name: str) -> str:
    """The git ref of a commit's experiment, as DVC names it; `name` may be a pattern, trial-*."""
    return f"refs/exps/{commit[:2]}/{commit[2:]}/{name}"
