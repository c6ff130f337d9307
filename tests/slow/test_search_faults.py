"""A search by itself, and what kills searches: workers, git, a dashboard (make test-slow)."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import copy_of_project, dvc, dvc_repo, git, processes_in, python
from service import Service, digits_repository, quick_project, wait_until

pytestmark = pytest.mark.slow

LONG = {"train.epochs": [20]}  # half a minute of training: long enough to be killed


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A server with the deployments and the search's own worker; none yet for trials."""
    service = Service(tmp_path, digits_repository(tmp_path / "repository"))
    service.start_server()
    service.install()
    service.start_worker(pool="search")
    yield service
    service.stop()


def start(service: Service, grid: dict[str, list[Any]], **parameters: Any) -> str:
    """Order a search, as from the dashboard; its id."""
    return service.run("search/manual", grid=grid, **parameters)


def trials(service: Service, *states: str) -> list[Any]:
    """The runs of trials, those in one of these states, or all."""
    found = service.runs("trial")
    return [run for run in found if not states or run["state"]["type"] in states]


def training(service: Service) -> list[Any]:
    """The trials whose training has begun."""
    wanted = "Train Epoch: 2 "
    runs = trials(service, "RUNNING")
    return [run for run in runs if any(line.startswith(wanted) for line in service.log(run["id"]))]


def experiments(service: Service) -> list[str]:
    """The names of the trials that origin has."""
    refs = git(service.origin, "for-each-ref", "--format=%(refname)", "refs/exps")
    return [ref.rpartition("/")[2] for ref in refs.split()]


def kill(service: Service, worker, run: str) -> None:
    """SIGKILL a worker; every process of its run ends with it."""
    family = service.family_of(run)
    worker.kill()
    worker.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []


@pytest.mark.parametrize("shared", [True, False], ids=["shared cache", "other machine"])
def test_a_killed_machines_trial_goes_to_another(service, shared):
    """It goes on after its last epoch if the cache is shared, and starts over if not."""
    first = service.start_worker("--limit", "1", home="one")
    search = start(service, LONG, parallel=1)
    (run,) = wait_until(lambda: training(service), 180, "a trial trains")
    kill(service, first, run["id"])
    service.start_worker("--limit", "1", home="one" if shared else "two")
    service.wait(search, "COMPLETED", seconds=500)
    (_, second) = sorted(trials(service), key=lambda each: each["created"])
    resumed = any("Resumed after epoch" in line for line in service.log(second["id"]))
    assert resumed == shared
    assert experiments(service) == [second["name"]]


def test_a_killed_coordinator_finds_what_is_done(service):
    """Started again, it waits for what is under way; nothing is trained twice."""
    grid = LONG | {"train.seed": [1, 2, 3]}
    first = start(service, grid, parallel=1)
    service.start_worker("--limit", "1")
    wait_until(
        lambda: len(trials(service)) == 2 and training(service), 300, "one is done, one trains"
    )
    service.family_of(first)[0].kill()
    again = start(service, grid, parallel=1)
    service.wait(again, "COMPLETED", seconds=500)
    assert len(experiments(service)) == len(trials(service)) == 3


def test_search_with_nothing_prepared(tmp_path):
    """No server, no remote: experiments and data land in the checkout, and every process ends.

    Data that dvc add tracks come from the checkout, too.
    """
    checkout = quick_project(tmp_path / "checkout")
    (checkout / "own").write_text("data")
    with dvc_repo(checkout) as repo:
        repo.add("own")
    stages = (
        (checkout / "dvc.yaml").read_text().replace("train.py\n", "train.py\n    deps: [own]\n")
    )
    (checkout / "dvc.yaml").write_text(stages)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=data")
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own |= {"PYTHONPATH": f"{checkout / 'src'}:{checkout}", "TMPDIR": str(tmp_path)}
    words = ("-m", "flows.search", '{"train.seed": [1]}', "parallel=1")
    done = python(*words, cwd=checkout, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / "build/search/service.log").stat().st_size > 0
    everyone = psutil.process_iter(["environ"])
    assert not [one for one in everyone if own.items() <= (one.info["environ"] or {}).items()]
    (name,) = re.findall(r"dvc exp apply (trial-\w{12})", done.stdout)
    assert dvc(checkout, "exp", "apply", name).returncode == 0
    assert (checkout / "models/exported").read_text() == "searched 1.0 1"


def test_local_search_ends_with_its_worker(tmp_path):
    """make search without a server: one line and exit status 2, and every process has ended."""
    checkout = copy_of_project(tmp_path / "checkout")
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own |= {"PYTHONPATH": f"{checkout / 'src'}:{checkout}", "TMPDIR": str(tmp_path)}
    grid = {"data.source": ["digits"], "train.epochs": [100]}
    command = (sys.executable, "-m", "flows.search", json.dumps(grid), "parallel=1")
    said = tmp_path / "stderr"
    with (
        said.open("w") as stderr,
        subprocess.Popen(command, cwd=checkout, env=os.environ | own, stderr=stderr) as search,
    ):
        states = checkout / ".dvc/cache/resume"
        wait_until(lambda: [*states.glob("*.pt")], 180, "a trial trains")
        everyone = processes_in(tmp_path)
        children = psutil.Process(search.pid).children()
        (worker,) = [one for one in children if "worker" in one.cmdline()]
        worker.kill()
        assert search.wait(60) == 2
    assert said.read_text().splitlines()[-1].startswith("error: the server or a worker has ended")
    assert psutil.wait_procs(everyone, timeout=30)[1] == []


def test_git_may_be_away_for_a_minute(service):
    """A trial's push, the next trial's clone and the coordinator's fetch are all tried again."""
    service.start_worker("--limit", "1")
    search = start(service, {"train.epochs": [20], "train.seed": [1, 2]}, parallel=1)
    wait_until(lambda: training(service), 180, "a trial trains")
    away = service.origin.with_name("away.git")
    service.origin.rename(away)
    time.sleep(60)
    away.rename(service.origin)
    service.wait(search, "COMPLETED", seconds=500)
    assert len(experiments(service)) == 2


def test_cancelled_in_the_dashboard(service):
    """The search's trials end within seconds, begun or not, and so does every process of theirs."""
    service.start_worker("--limit", "1")
    search = start(service, LONG | {"train.seed": [1, 2, 3]}, parallel=3)
    (run,) = wait_until(lambda: training(service), 180, "a trial trains")
    family = service.family_of(run["id"])
    service.cancel(search)
    service.wait(search, "CANCELLED", seconds=60)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    wait_until(lambda: len(trials(service, "CANCELLED")) == 3, 60, "all trials are cancelled")


def test_two_hundred_trials_do_not_hinder_a_retraining(service):
    """The nightly run, ordered last, is the next on the only worker; trials go on after it."""
    grid = {"train.seed": list(range(200))}
    search = start(service, grid, parallel=200)
    wait_until(lambda: len(trials(service)) == 200, 300, "200 trials are queued")
    service.start_worker("--limit", "1")
    wait_until(lambda: trials(service, "RUNNING"), 60, "one runs")
    nightly = service.run("nightly", publish="main")
    service.wait(nightly, "COMPLETED", seconds=120)
    assert len(trials(service, "COMPLETED")) <= 3
    before = len(experiments(service))
    wait_until(lambda: len(experiments(service)) > before, 120, "trials go on")
    service.cancel(search)
    service.wait(search, "CANCELLED", seconds=120)


def test_noise_is_measured_by_the_pool(service):
    """If workers are online, make noise has them train, and writes the same file as without."""
    service.start_worker("--limit", "1")
    service.wait(service.run("nightly", publish="main"), "COMPLETED")
    git(service.checkout, "pull", "--quiet")
    written = []
    for module in ("flows.seeds", "mnist_pipeline"):
        words = ["noise"] if module == "mnist_pipeline" else []
        command = (sys.executable, "-m", module, *words, "--seeds", "2")
        assert service.start(*command).wait(300) == 0
        written.append((service.checkout / "metrics/noise.json").read_bytes())
    assert written[0] == written[1]
    assert len(trials(service, "COMPLETED")) == 2
