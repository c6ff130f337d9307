"""Search for parameters: many trainings, on every machine whose worker has joined the pool.

python -m flows.search '{"train.lr": [0.5, 1.0], "train.seed": [1, 2, 3]}'    # --help: the rest

Runs on the server that Prefect's profile names. If it names none: this machine, this checkout.
"""

import argparse
import inspect
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from prefect import artifacts, flow, tags
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun, ParameterTypeError, SignatureMismatchError
from prefect.logging.loggers import disable_logger
from prefect.settings import (
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    get_current_settings,
    temporary_settings,
)
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from flows import command
from flows.clones import KEY, ROOT, temporary_clone
from flows.coordinator import DEPLOYMENT, Trials, online
from flows.gate import approve
from flows.points import Grid, Range, Sampler, Space, explore, plan
from flows.publish import COMMITTED, push
from flows.repro import has_remote, require_remote
from flows.schedule import POOL, TAG, free_port, service
from flows.stages import refused
from flows.trial import ref_of
from mnist_pipeline.files import (
    InputError,
    explain_refusal,
    parse_json,
    read_params,
    validate,
    write_atomically,
)
from mnist_pipeline.leash import leashed
from mnist_pipeline.review.audit import warn_of_changes
from mnist_pipeline.review.git import git
from mnist_pipeline.review.pictures import write
from mnist_pipeline.review.ranking import FAULT, describe, draw, rank, winner
from mnist_pipeline.review.statistics import ALPHA

BUILD = ROOT / "build/search"


@flow(name="search")
def search(  # noqa: PLR0913, PLR0917 (the parameters of the deployment)
    grid: Grid,
    repository: str = "",
    branch: str = "main",
    sampler: Sampler | None = None,
    trials: Annotated[int, Field(ge=1)] | None = None,
    parallel: Annotated[int, Field(ge=1, le=200)] = 2,
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1,
    publish: Literal["none", "branch"] = "none",
) -> State[None]:
    """Train a branch's tip with many parameters, and rank them by validation accuracy.

    Args:
        grid: values for keys of params.yaml, {"train.lr": [0.5, 1.0]}, or ranges,
            {"train.lr": {"low": 0.1, "high": 2, "log": true}}. With a list for train.seed, each
            point is trained with each seed, and counts with the mean.
        repository: what the workers clone; empty: where this project's checkout came from.
        branch: whose tip to train, or a commit; empty: the repository's current branch.
        sampler: Optuna's: grid, random or tpe; empty: grid if there are only lists, else tpe.
        trials: how many points to try; empty: the whole grid, which random and tpe do not have.
        parallel: how many trainings at once; on a server of its own, also how many workers.
        seed: of the sampler: the same seed tries the same points.
        publish: branch: propose the best point as a branch, if it passes the gate; none: do not.
    """
    try:
        with temporary_clone(repository, branch) as folder:
            space, seeds, study, number = plan(folder, grid, sampler, seed, trials)
            check_ranking(folder, grid, publish)
            found = Trials(folder, repository, parallel, seeds, number)
            explore(study, space, number, parallel, found.score)
            table = pd.DataFrame(found.rows.values())
            ranking = rank(table)
            base = branch or found.commit[:7]
            show(table, describe(table, ranking, base, repository == str(ROOT)), space)
            failed = (table[FAULT] != "").sum()
            done = f"{failed} of {len(table)} trials failed" if failed else f"{len(table)} trials"
            try:
                if publish == "branch":
                    done += f"; {propose(found, ranking, branch)}"
            except InputError as error:
                return Failed(message=f"{done}; nothing proposed: {error}")
    except CancelledRun:
        return Cancelled(message="its trials are cancelled, too")
    except InputError as error:
        return refused(str(error))
    return Failed(message=done) if failed else Completed(message=done)


def check_ranking(folder: Path, grid: Grid, publish: str) -> None:
    """Raises InputError for a search that could not rank its trials, keep or propose them."""
    key = "train.validation_fraction"
    held_out = grid.get(key, [read_params(folder)["train"]["validation_fraction"]])
    if 0 in held_out if isinstance(held_out, list) else held_out.low == 0:
        raise InputError(f"{key}: expected above 0, as the held-out images rank the trials")
    if publish == "branch":
        require_remote(folder)
    has_remote(folder)  # InputError for one that no trial's clone would find


def show(trials: pd.DataFrame, text: str, space: Space) -> None:
    """Say what was found and what to do next, on stdout, in Prefect and in build/search."""
    artifacts.create_markdown_artifact(text, key="search-ranking")
    logarithmic = {key for key, one in space.items() if getattr(one, "log", False)}
    try:
        write_atomically(BUILD / "trials.csv", trials.to_csv(index=False).encode())
        write(BUILD / "trials.png", draw(trials, logarithmic))
        said = f"{BUILD.relative_to(ROOT)}/: trials.csv, trials.png"
    except OSError as error:  # in a container, the checkout may be read-only
        said = f"no trials.csv or trials.png: {explain_refusal(error)}"
    print(f"{text}\n\n{said}")


def propose(found: Trials, ranking: pd.DataFrame, branch: str) -> str:
    """Push the best point's result as a branch, if it passes the gate; returns where it went."""
    if not (best := winner(ranking)):
        raise InputError("no trial was trained")
    git(found.folder, "checkout", "--quiet", ref_of(found.commit, best), "--", *COMMITTED)
    verdict = approve(found.folder, "branch", ALPHA)
    return f"{push(found.folder, branch, 'branch', verdict)}: {verdict}"


def search_here(**options: Any) -> State[Any]:
    """Search in this process, with the tag and heartbeat that flows/server.py expects of a run."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}), tags(TAG):
        return search(**options, return_state=True)


def main() -> None:
    """Search on the server that is named, or on one of our own, with workers of our own."""
    url = get_current_settings().api.url
    here = [] if url else [f"repository={ROOT}", "branch="]
    options = parse(here)
    if url:
        print(f"Workers of the pool {POOL}: {online()}")
        state = search_here(**options)
        sys.exit({"Completed": 0, "Refused": 2}.get(str(state.name), 1))
    # Refuse a bad search before a server starts.
    with temporary_clone(options["repository"], options["branch"]) as folder:
        plan(folder, *(options[name] for name in ("grid", "sampler", "seed", "trials")))
        check_ranking(folder, options["grid"], options["publish"])
    warn_of_changes("the search")
    port, log = free_port("0"), BUILD / "service.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    workers = [["--pool", POOL, "--limit", "1"]] * int(options["parallel"])
    print(f"Starting a Prefect server and {len(workers)} workers. They write to {log}.")
    with tempfile.TemporaryDirectory(prefix="mnist_pipeline-search-") as home, log.open("w") as out:
        os.environ |= {"PREFECT_HOME": home, "PREFECT_WORKER_QUERY_SECONDS": "2"}
        with service(port, workers, "--name", DEPLOYMENT, log=out) as others:
            words = [sys.argv[1], *here, *sys.argv[2:]]
            with subprocess.Popen(leashed(sys.executable, "-m", "flows.search", *words)) as own:
                while own.poll() is None and all(one.poll() is None for one in others):
                    time.sleep(1)
                if own.poll() is None:
                    own.kill()
                    raise InputError(f"the server or a worker has ended; see {log}")
            sys.exit(own.returncode)


def parse(here: list[str]) -> dict[str, Any]:
    """The command line as the flow's parameters; InputError if the flow does not accept them.

    `here`: NAME=VALUE for what the command line leaves out.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.search",
        description=search.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("grid", help="as JSON")
    parser.add_argument("others", nargs="*", metavar="NAME=VALUE", help="such as parallel=4")
    words = parser.parse_args()
    options, others = {"grid": parse_json(words.grid or "{}", "grid")}, [*here, *words.others]
    options |= {name: value for name, _, value in (one.partition("=") for one in others)}
    check_form(options)
    try:
        with disable_logger("prefect.flows"):  # it would say the same at length
            return search.validate_parameters(options)
    except (ParameterTypeError, SignatureMismatchError) as error:
        faults = str(error).removeprefix("Flow run received invalid parameters:")
        raise InputError(f"search: {faults}") from error


def check_form(options: dict[str, Any]) -> None:
    """Raises InputError for what Prefect would refuse, too, but with pydantic's own types."""
    known = inspect.signature(search).parameters
    if unknown := options.keys() - known.keys():
        raise InputError(f"{', '.join(sorted(unknown))}: expected one of {', '.join(known)}")
    grid = options["grid"]
    if not grid or not isinstance(grid, dict):
        found = grid or "none"
        raise InputError(f'grid: expected values, such as {{"train.lr": [0.5, 1]}}, found {found}')
    for key, values in grid.items():
        if not re.fullmatch(KEY, key):
            raise InputError(f"grid: {key}: expected a section and a name, such as train.lr")
        if isinstance(values, dict):
            validate(Range, values, "grid", key)
        elif not isinstance(values, list) or not values:
            raise InputError(f"grid: {key}: expected a list or a range, found {values!r}")


if __name__ == "__main__":
    with command():
        main()
