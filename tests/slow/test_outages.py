"""What kills schedules in practice, against a real server and a real worker (make test-slow)."""

import datetime
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import git
from service import Service, change, digits_repository, wait_until

pytestmark = pytest.mark.slow

LONG = {"overrides": {"train.epochs": 5000}, "publish": "branch"}  # until somebody ends it
TRAINED = {"download": "Cached"} | dict.fromkeys(
    ("connect", "train", "evaluate", "save", "publish"), "Completed"
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository that all services here serve."""
    return digits_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture
def service(tmp_path: Path, repository: Path) -> Iterator[Service]:
    """A server with the deployments, and no worker yet."""
    service = Service(tmp_path, repository)
    service.start_server()
    service.install()
    yield service
    service.stop()


@pytest.fixture
def scheduled(tmp_path: Path, repository: Path) -> Iterator[Service]:
    """A service for make schedule to start, with a tick each minute."""
    service = Service(tmp_path, repository)
    deployments = service.checkout / "prefect.yaml"
    text = deployments.read_text()
    assert '"0 3 * * *"' in text
    deployments.write_text(text.replace('"0 3 * * *"', '"* * * * *"'))
    yield service
    service.stop()


def start_run(service: Service, pattern: str, deployment: str = "nightly", **parameters) -> str:
    """Order a run, and wait for a line in its log; returns the run's id."""
    run = service.run(deployment, **parameters)
    wait_until(
        lambda: any(re.search(pattern, line) for line in service.log(run)), 180, f"{pattern} in log"
    )
    return run


def works(service: Service, deployment: str = "nightly") -> None:
    """A run that is ordered now gets a slot and completes."""
    service.wait(service.run(deployment, publish="none"), "COMPLETED")


def ticks(service: Service, *types: str) -> list[str]:
    """The nightly runs in one of these states; none while there is no server or deployment yet."""
    with suppress(httpx.HTTPError):
        where = {"id": {"any_": [service.deployment("nightly")["id"]]}}
        found = service.api("POST", "flow_runs/filter", deployments=where)
        return [run["id"] for run in found if run["state"]["type"] in types]
    return []


def test_schedule_fires_publishes_and_follows_main(scheduled, repository):
    """A tick publishes; after a pushed change another one reruns the stages that it affects."""
    scheduled.start(sys.executable, "-m", "flows.schedule")
    wait_until(lambda: ticks(scheduled, "COMPLETED"), 400, "a tick has worked")
    assert "Retrain: the first publication" in git(repository, "log", "-1", "main")
    change(repository, overrides={"train.epochs": 2})
    wait_until(
        lambda: TRAINED in [scheduled.tasks(run) for run in ticks(scheduled, "COMPLETED")],
        400,
        "a tick has trained",
    )
    assert "Retrain: not significantly worse" in git(repository, "log", "-1", "main")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_schedule_stops_everything(scheduled, end):
    """In the midst of a training: no process stays; started again, it works by itself."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started these tests
    schedule = scheduled.start(sys.executable, "-m", "flows.schedule")
    signal.signal(signal.SIGHUP, before)
    wait_until(lambda: ticks(scheduled, "COMPLETED"), 400, "a tick has worked")
    run = start_run(scheduled, "Train Epoch: 2 ", "manual", **LONG)
    schedule.send_signal(end)
    assert schedule.wait(60) == 0
    wait_until(lambda: not scheduled.family(), 10, "no process is left")
    scheduled.start(sys.executable, "-m", "flows.schedule")
    wait_until(scheduled.healthy, 120, "the server answers")
    scheduled.wait(run, "CRASHED", "FAILED", "CANCELLED", seconds=180)
    works(scheduled, "manual")


def test_tick_during_a_run_is_cancelled(service):
    """The second run says why; the first goes on; cancelling it ends the trainer in seconds."""
    service.start_worker()
    first = start_run(service, "Train Epoch: 2 ", **LONG)
    state = service.wait(service.run("nightly"), "CANCELLED")
    assert state["message"] == "Deployment concurrency limit reached."
    assert service.state(first)["type"] == "RUNNING"
    family = service.family_of(first)
    service.cancel(first)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    service.wait(first, "CANCELLED", seconds=60)
    works(service)


def test_one_of_the_late_runs_works(service):
    """Five runs late after an outage: one works, four are cancelled and say why."""
    path = f"deployments/{service.deployment('nightly')['id']}/create_flow_run"
    now = datetime.datetime.now(datetime.UTC)
    late = []
    for minutes in range(30, 25, -1):
        when = (now - datetime.timedelta(minutes=minutes)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": when}}
        late.append(service.api("POST", path, state=state, parameters={"publish": "none"})["id"])
    time.sleep(10)
    service.start_worker()
    ends = [service.wait(run) for run in late]
    assert sorted(end["type"] for end in ends) == ["CANCELLED"] * 4 + ["COMPLETED"], ends
    reasons = {end["message"] for end in ends if end["type"] == "CANCELLED"}
    assert reasons == {"Deployment concurrency limit reached."}


def test_run_outlives_a_restart_of_the_server(service):
    """The server is killed in mid-run and comes back: watched for over 4 minutes, to its end."""
    server = service.processes[0]
    service.start_worker()
    run = start_run(service, "Train Epoch: 2 ", overrides={"train.epochs": 320}, publish="none")
    server.kill()
    server.wait()
    time.sleep(10)
    service.start_server()
    begin = time.monotonic()
    service.wait(run, "COMPLETED", seconds=1800)
    assert time.monotonic() - begin > 240, "too short to tell: raise the number of epochs"
    works(service)


def test_run_that_died_with_its_server_is_ended(service):
    """A power cut of minutes: the run is over soon after the server's next start."""
    service.start_worker()
    run = start_run(service, "Train Epoch: 2 ", **LONG)
    for process in service.family():
        process.kill()
    wait_until(lambda: not service.family(), 20, "all are dead")
    time.sleep(200)  # by then Prefect forgets such a run, if it is not told to remember
    service.start_server()
    service.wait(run, "CRASHED", seconds=60)
    service.start_worker()
    works(service)


@pytest.mark.parametrize("moment", ["PENDING", "RUNNING"])
@pytest.mark.parametrize("with_worker", [False, True])
def test_killed_run_ends_and_the_next_one_works(service, with_worker, moment):
    """SIGKILL: the run is over within three minutes, no process and no slot stays.

    Also where the worker is killed first, so that nobody is left to report the flow's end.
    """
    worker = service.start_worker()
    if moment == "RUNNING":
        run = start_run(service, "Train Epoch: 2 ", **LONG)
    else:
        run = service.run("nightly", **LONG)
        service.wait(run, moment)
    family = wait_until(lambda: service.family_of(run), 20, "the run has a process")
    if with_worker:
        worker.kill()
        worker.wait()
    family[0].kill()
    assert psutil.wait_procs(family, timeout=20)[1] == []
    service.wait(run, "CRASHED", "FAILED", seconds=180)
    if with_worker:
        service.start_worker()
    works(service)


@pytest.mark.parametrize("victim", ["stage", "worker"])
def test_run_gets_over_the_kill_of(service, victim):
    """SIGKILL of the training: its task resumes it. Of the worker: its run goes on without it."""
    worker = service.start_worker()
    many = {"train.epochs": 40}
    run = start_run(service, "Train Epoch: 5 ", overrides=many, publish="none")
    if victim == "stage":
        service.family_of(run)[-1].kill()
    else:
        worker.kill()
        worker.wait()
    service.wait(run, "COMPLETED", seconds=400)
    resumed = any("Resumed after epoch" in line for line in service.log(run))
    assert resumed == (victim == "stage")
    if victim == "worker":
        service.start_worker()
    works(service)
