"""The deployments on a real server and worker, with git and a DVC remote, on the digits."""

import shutil

import httpx
import pytest
from conftest import ROOT, git
from flows import server
from flows.server import AUTOMATIONS, ENDS, FLOWS
from prefect.settings import PREFECT_API_URL, temporary_settings
from service import FINAL, wait_until

from mnist_pipeline.files import parse_yaml

CACHED = dict.fromkeys(("download", "train", "evaluate", "save"), "Cached")


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


def test_every_end_of_a_run_disarms_the_automations():
    """Events are named after states: a run's own name for its end is among the expected ones."""
    assert {"Refused", *(name.capitalize() for name in FINAL)} <= set(ENDS)


def test_every_deployed_flow_is_watched():
    """Otherwise a run that is killed with its worker would be Running for ever."""
    deployments = parse_yaml((ROOT / "prefect.yaml").read_text(), "prefect.yaml")["deployments"]
    assert {each["entrypoint"].rpartition(":")[2] for each in deployments} == {*FLOWS}
