"""make schedule and its deployments for real, workers as on two machines; results in git."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import httpx
import pandas as pd
import pytest
from conftest import git
from flows import coordinator, server
from flows.server import AUTOMATIONS
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled
from service import MARK, Service, bare, quick_project, wait_until

CACHED = dict.fromkeys(("download", "train", "evaluate", "save"), "Cached")
GRID = {"train.lr": [0.7], "train.seed": [1, 2, 3]}  # the third fails


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """What make schedule starts, a worker on another machine, and quick stages to serve.

    Nothing is published yet.
    """
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, bare(quick_project(folder / "seed")))
    # At night, a scheduled run would come between.
    service.environment["PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED"] = "false"
    with (service.checkout / "src/mnist_pipeline/leash.py").open("a") as code:
        code.write(MARK)
    for name, old, new in (
        ("stages", "[5, 20, 60, 180]", "[2] * 30"),  # where a task waits for git
        ("schedule", '"--pool", POOL', '"--pool", POOL, "--limit", "1"'),
    ):
        path = service.checkout / f"flows/{name}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    try:
        service.start(sys.executable, "-m", "flows.schedule", XDG_CACHE_HOME=str(folder / "one"))
        log = folder / "0.log"
        wait_until(lambda: "Dashboard:" in log.read_text(), 300, "make schedule has started all")
        service.start_worker("--limit", "1", home="two")
        wait_until(lambda: service.online() == 2, 180, "both workers are online")
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of quick stages; nothing was published yet."""
    return bare(quick_project(tmp_path_factory.mktemp("search") / "seed"))


@pytest.fixture(scope="module")
def searched(service: Service, origin: Path) -> str:
    """A search from the dashboard, of which one trial fails; the run's id."""
    words = {"repository": str(origin), "publish": "branch"}
    run = service.run("search/manual", grid=GRID, **words)
    service.wait(run, "FAILED")
    return run


# The retraining


def test_first_run_publishes_and_the_next_has_nothing_to_do(service):
    """One commit on main, and artifacts that show why; then four times Cached, and main stays.

    A run that starts before git's remote can be reached waits for it. A machine whose cache is
    empty has nothing to do either: it takes the published data.
    """
    before = git(service.origin, "rev-parse", "main")
    run = service.run("nightly")
    state = service.wait(run, "COMPLETED")
    first = "the first publication: nothing to compare with"
    assert state["message"] == f"main, mnist-cnn@v1.0.0: {first}"
    assert git(service.origin, "tag").split() == ["mnist-cnn#prod#1", "mnist-cnn@v1.0.0"]
    expected = dict.fromkeys(["connect", *CACHED, "publish"], "Completed")
    service.wait_for_tasks(run, expected)
    assert git(service.origin, "rev-parse", "main~1") == before
    published = git(service.origin, "log", "-1", "main")
    assert "Retrain: the first publication" in published
    shown = service.artifacts(run)
    assert "| metrics/metrics.json | accuracy |" in shown["retrain-metrics"]

    caches = [*service.folder.glob("*/mnist_pipeline/retrain/cache")]
    assert caches
    for cache in caches:
        shutil.rmtree(cache)
    away = service.origin.rename(service.origin.with_name("away.git"))
    run = service.run("nightly")
    wait_until(lambda: "AwaitingRetry" in service.tasks(run).values(), 120, "git is away")
    away.rename(service.origin)
    service.wait(run, "COMPLETED")
    service.wait_for_tasks(run, CACHED | {"connect": "Completed", "publish": "Completed"})
    assert git(service.origin, "log", "-1", "main") == published
    assert service.artifacts(run) == {"retrain-metrics": "No difference."}
    assert (service.checkout / "src/mnist_pipeline" / run).exists()  # not of the installed package


@pytest.mark.parametrize(
    ("deployment", "name", "value"),
    [
        ("manual", "alpha", 2),
        ("manual", "publish", "all"),
        ("manual", "overrides", {"lr": 1}),
        ("manual", "overrides", {"train.lr": [1]}),
        ("search/manual", "grid", {"lr": [1]}),
    ],
)
def test_bad_parameters_are_refused_before_a_run_exists(service, deployment, name, value):
    """The server names the parameter; no run is created."""
    before = service.api("POST", "flow_runs/count")
    with pytest.raises(httpx.HTTPStatusError) as error:
        service.run(deployment, **{name: value})
    assert error.value.response.status_code == 409
    assert name in error.value.response.text
    assert service.api("POST", "flow_runs/count") == before


def test_deploying_again_changes_nothing_by_itself(service):
    """A paused schedule stays paused; two automations stay two, and other changes are undone."""
    deployment = service.deployment("nightly")
    (schedule,) = deployment["schedules"]
    path = f"deployments/{deployment['id']}/schedules"
    service.api("PATCH", f"{path}/{schedule['id']}", active=False)
    before = {each["name"]: each for each in service.api("POST", "automations/filter")}
    switched_off, changed = (before[automation.name] for automation in AUTOMATIONS)
    service.api("PATCH", f"automations/{switched_off['id']}", enabled=False)
    wrong = {key: changed[key] for key in ("name", "actions", "enabled")}
    wrong["trigger"] = changed["trigger"] | {"within": 3600}
    service.api("PUT", f"automations/{changed['id']}", **wrong)

    with temporary_settings({PREFECT_API_URL: service.url}):
        server.main()
    deploy = ("prefect", "--no-prompt", "deploy", "--name", "retrain/nightly")
    assert service.start(*deploy).wait(300) == 0
    assert service.api("GET", path)[0]["active"] is False
    after = {each["id"]: each for each in service.api("POST", "automations/filter")}
    assert len(after) == 2
    assert after[switched_off["id"]]["enabled"] is False
    assert after[changed["id"]]["trigger"]["within"] == changed["trigger"]["within"]


# A search


def test_failed_trials_are_reported_and_the_rest_goes_on(service, searched):
    """With the stage's own line; no second attempt, as it would not help."""
    ranking = service.artifacts(searched)["search-ranking"]
    (fault,) = re.findall(r"^- trial-\w{12}: Refused: train: error: (.*)", ranking, re.MULTILINE)
    assert "finite" in fault
    assert len(service.runs("trial")) == 3

    def attempts() -> list[int]:
        tasks = service.api("POST", "task_runs/filter", flows={"name": {"any_": ["trial"]}})
        return [task["run_count"] for task in tasks if task["name"].startswith("train")]

    wait_until(lambda: attempts() == [1] * 3, 60, "the server knows the tasks")


def test_no_more_trials_at_once_than_asked_for(service, searched):
    """The next trial is ordered when another one has ended."""
    times = [(run["created"], run["end_time"]) for run in service.runs("trial")]
    spans = [[datetime.fromisoformat(each) for each in pair] for pair in times]
    assert all(sum(begin <= at < end for begin, end in spans) <= 2 for at, _ in spans)


def test_both_machines_have_trained(service, searched):
    """Each has a cache of its own, with the weights of what it trained."""
    for home in ("one", "two"):
        cached = (service.folder / home / "mnist_pipeline/retrain/cache/files").rglob("*")
        assert any(path.is_file() and b"searched 0.7" in path.read_bytes() for path in cached)


def test_table_and_experiments_agree(service, origin, searched):
    """Two experiments on origin, with the names and accuracies of the table."""
    table = pd.read_csv(service.checkout / "build/search/trials.csv")
    trained = table.dropna(subset=["validation_accuracy"])
    refs = git(origin, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    found = {}
    for ref in refs:
        history = git(origin, "show", f"{ref}:metrics/history.csv")
        found[ref.rpartition("/")[2]] = float(history.rpartition(",")[2])
    assert found == dict(zip(trained["experiment"], trained["validation_accuracy"], strict=True))
    assert len(found) == 2
    mean = f"{100 * sum(found.values()) / 2:.2f} %"
    ranking = service.artifacts(searched)["search-ranking"]
    assert re.search(rf"^\| +0\.7 +\| {mean} +\|", ranking, re.MULTILINE)


def test_commands_for_the_next_step_work(service, origin, searched, tmp_path):
    """Somebody else can run each line of the block that the search shows, in a clone."""
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    ranking = service.artifacts(searched)["search-ranking"]
    (block,) = re.findall(r"^```\n(.*?)^```", ranking, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        where = {"cwd": tmp_path / "clone", "env": service.environment}
        assert subprocess.run(line.split(), **where, check=False).returncode == 0, line


def test_the_best_is_proposed_as_a_branch(service, origin, searched):
    """The gate has approved it; main stays."""
    message = service.state(searched)["message"]
    assert re.match(r"1 of 3 trials failed; retrain/\w{12}: the first publication", message)
    branch = re.search(r"retrain/\w{12}", message)[0]
    changed = git(origin, "diff", "--name-only", f"main...{branch}").split()
    assert {"dvc.lock", "params.yaml", "metrics/history.csv"} <= {*changed}
    before = git(origin.parent / "seed", "rev-parse", "main")
    assert git(origin, "rev-parse", "main") == before


def test_deleted_runs_neither_answer_nor_are_waited_for(service, monkeypatch):
    """A run under way is found; after its end another is ordered, whatever people have deleted."""
    monkeypatch.setattr(coordinator, "POLL", 0)
    trials = SimpleNamespace(repository="", commit="")
    with temporary_settings({PREFECT_API_URL: service.url}), get_client(sync_client=True) as client:
        order = partial(coordinator.Trials.submit, trials, client, "trial-x", {}, delay=3600)
        first = order()
        assert order() == first
        client.set_flow_run_state(first, Cancelled())
        second = order()
        client.set_flow_run_state(second, Cancelled())
        client.delete_flow_run(first)
        third, ours = order(), SimpleNamespace(id=str(second))
        assert third not in {first, second}
        monkeypatch.setattr(coordinator, "flow_run", ours)
        assert [*coordinator.ended(client, [second, third])] == [second]
        client.delete_flow_run(third)
        assert coordinator.ended(client, [third])[third].message == "its run was deleted"
        client.delete_flow_run(second)  # the other tests count the trials
