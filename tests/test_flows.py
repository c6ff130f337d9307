"""The flow and its deployments against a real server, worker, git and DVC remote, on the digits."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import ROOT, git
from flows import automations
from ruamel.yaml import YAML
from service import FINAL, Service, digits_repository

CACHED = dict.fromkeys(("download", "train", "evaluate", "save"), "Cached")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Server, deployments and worker, on a repository where nothing is published yet."""
    folder = tmp_path_factory.mktemp("service")
    service = Service(folder, digits_repository(folder / "repository"))
    service.start_server()
    service.install()
    service.start_worker()
    yield service
    service.stop()


def start(service: Service, **parameters: object) -> "subprocess.Popen[str]":
    """The flow as a program of its own; its log, and at the end its final state."""
    code = (
        "from flows.retrain import retrain\n"
        f"state = retrain(**{parameters!r}, return_state=True)\n"
        "print('END', state.type.value, state.name, state.message)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=service.environment,
        cwd=service.checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def retrain(service: Service, **parameters: object) -> str:
    """Run the flow to its end; the log."""
    with start(service, **parameters) as flow:
        return flow.communicate()[0]


def artifacts(service: Service, run: str) -> dict[str, str]:
    """Key → content of what a run shows."""
    where = {"flow_run_id": {"any_": [run]}}
    found = service.api("POST", "artifacts/filter", artifacts=where)
    return {artifact["key"]: artifact["data"] for artifact in found}


def test_first_run_publishes_and_the_next_has_nothing_to_do(service):
    """One commit on main, and artifacts that show why; then four times Cached, and main stays."""
    run = service.run("nightly")
    state = service.wait(run, "COMPLETED")
    assert state["message"] == "main: the first publication: nothing to compare with"
    assert git(service.origin, "rev-list", "--count", "main").strip() == "3"
    shown = artifacts(service, run)
    assert [row["stage"] for row in json.loads(shown["retrain-stages"])] == [*CACHED]
    assert {row["state"] for row in json.loads(shown["retrain-stages"])} == {"Completed"}
    assert "| metrics/metrics.json | accuracy |" in shown["retrain-metrics"]
    assert shown["retrain-epochs"] == 100

    run = service.run("nightly")
    service.wait(run, "COMPLETED")
    assert service.stages(run) == CACHED | {"publish": "Completed"}
    assert git(service.origin, "rev-list", "--count", "main").strip() == "3"
    shown = artifacts(service, run)
    assert shown["retrain-metrics"] == "No difference."
    assert "retrain-epochs" not in shown


def test_another_machine_pulls_instead_of_training(service, tmp_path):
    """With an empty cache but a DVC remote, what is published already comes from there."""
    elsewhere = Service(tmp_path, service.origin)
    elsewhere.environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    elsewhere.environment["PREFECT_API_URL"] = service.environment["PREFECT_API_URL"]
    log = retrain(elsewhere, publish="none")
    assert log.count("Finished in state Cached('DVC had nothing to do'") == 4, log
    assert "END COMPLETED" in log


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"alpha": 2}, "alpha"),
        ({"alpha": "high"}, "alpha"),
        ({"publish": "everywhere"}, "publish"),
        ({"overrides": {"lr": 0.5}}, "overrides"),
        ({"overrides": {"train.lr": [0.5]}}, "overrides"),
        ({"force": "please"}, "force"),
    ],
)
def test_bad_parameters_are_refused_before_a_run_exists(service, parameters, name):
    """The server names the parameter; no run is created."""
    before = service.api("POST", "flow_runs/count")
    with pytest.raises(httpx.HTTPStatusError) as error:
        service.run("manual", **parameters)
    assert error.value.response.status_code == 409
    assert name in error.value.response.text
    assert service.api("POST", "flow_runs/count") == before


@pytest.mark.parametrize(
    ("parameters", "end"),
    [
        ({"publish": "main", "overrides": {"train.lr": 0.5}}, "END FAILED Refused overrides: "),
        ({"overrides": {"train.speed": 1}}, "END FAILED Refused overrides: train.speed: "),
        ({"branch": "nowhere"}, "END FAILED Refused git: "),
    ],
)
def test_what_the_server_cannot_know_is_refused_before_any_stage(service, parameters, end):
    """Parameters that contradict each other or the repository: by name, in the run's state."""
    log = retrain(service, **parameters)
    assert end in log, log
    assert "Running stage" not in log


def test_killed_flow_leaves_no_process_and_no_clone(service):
    """SIGKILL of the flow ends dvc and its stage; the next run sweeps the clone and goes on."""
    overrides = {"train.epochs": 50, "train.seed": 2}
    with start(service, overrides=overrides) as flow:
        for line in flow.stdout:
            if "Train Epoch: 2" in line:
                break
        children = psutil.Process(flow.pid).children(recursive=True)
        assert any("dvc" in " ".join(child.cmdline()) for child in children)
        flow.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == len(children)
    clones = Path(service.environment["XDG_CACHE_HOME"]) / "mnist_pipeline/retrain/clones"
    assert len(list(clones.iterdir())) == 1
    log = retrain(service, branch="nowhere")
    assert "END FAILED Refused" in log
    assert list(clones.iterdir()) == []


def test_deploying_again_changes_nothing_by_itself(service):
    """A paused schedule stays paused; two automations stay two, and get back what was changed."""
    deployment = service.deployment("nightly")
    (schedule,) = deployment["schedules"]
    path = f"deployments/{deployment['id']}/schedules"
    service.api("PATCH", f"{path}/{schedule['id']}", active=False)
    before = {each["name"]: each for each in service.api("POST", "automations/filter")}
    changed, other = (automation.name for automation in automations.AUTOMATIONS)
    service.api("PATCH", f"automations/{before[changed]['id']}", enabled=False)
    trigger = before[other]["trigger"] | {"within": 3600}
    put = {key: before[other][key] for key in ("name", "actions", "enabled")}
    service.api("PUT", f"automations/{before[other]['id']}", **put, trigger=trigger)

    service.install()
    (again,) = service.api("GET", path)
    assert again["active"] is False
    found = service.api("POST", "automations/filter")
    after = {each["name"]: each for each in found}
    assert len(found) == 2
    assert after[changed]["enabled"] is False
    assert after[other]["trigger"]["within"] == before[other]["trigger"]["within"]


def test_deployments_are_as_documented():
    """Both take one run at a time and cancel another; nightly has a time zone and no `active`."""
    found = YAML(typ="safe").load(ROOT / "prefect.yaml")["deployments"]
    assert [deployment["name"] for deployment in found] == ["nightly", "manual"]
    for deployment in found:
        limit = deployment["concurrency_limit"]
        assert (limit["limit"], limit["collision_strategy"]) == (1, "CANCEL_NEW")
    (schedule,) = found[0]["schedules"]
    assert schedule.keys() == {"slug", "cron", "timezone"}


def test_every_end_of_a_run_disarms_the_automations():
    """Events are named for states: a run's own name for its end is among the expected ones."""
    names = {event.rpartition(".")[2] for event in automations.ENDED}
    assert {"Refused", *(name.capitalize() for name in FINAL)} <= names
