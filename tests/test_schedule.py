"""What kills schedules in practice, against a real server and a real worker (make test-slow)."""

import datetime
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import git
from service import Service, digits_repository, push_params, wait_until

pytestmark = pytest.mark.slow

LONG = {"overrides": {"train.epochs": 5000}, "publish": "branch"}  # until somebody ends it
DONE = {"download": "Completed", "train": "Completed", "evaluate": "Completed", "save": "Completed"}
CACHED = dict.fromkeys(DONE, "Cached")


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


def wait_for_line(service: Service, run: str, pattern: str) -> None:
    """Until a run has logged a line."""
    wait_until(
        lambda: any(re.search(pattern, line) for line in service.log(run)), 180, f"{pattern} in log"
    )


def works(service: Service, deployment: str = "nightly") -> None:
    """A run ordered now is neither refused a slot nor hindered."""
    state = service.wait(service.run(deployment, publish="none"))
    assert state["type"] == "COMPLETED", state


@pytest.fixture
def scheduled(tmp_path: Path, repository: Path) -> Iterator[Service]:
    """A service as make schedule starts it, with a tick each minute."""
    service = Service(tmp_path, repository)
    deployments = service.checkout / "prefect.yaml"
    text = deployments.read_text()
    assert '"0 3 * * *"' in text
    deployments.write_text(text.replace('"0 3 * * *"', '"* * * * *"'))
    yield service
    service.stop()


def start_schedule(service: Service) -> "subprocess.Popen[str]":
    """make schedule, up to its server's answer."""
    schedule = service.start(sys.executable, "-m", "flows.schedule")
    wait_until(service.healthy, 120, "the server answers")
    return schedule


def test_schedule_fires_publishes_and_rests(scheduled, repository, tmp_path):
    """A commit; then all Cached; then a pushed change reruns the stages that it affects."""
    start_schedule(scheduled)
    first = wait_until(lambda: completed(scheduled), 300, "a tick has worked")[0]
    assert scheduled.stages(first["id"]) == DONE | {"publish": "Completed"}
    assert "Retrain: the first publication" in git(repository, "log", "-1", "main")
    second = wait_until(lambda: completed(scheduled)[1:], 200, "another tick has worked")[0]
    assert scheduled.stages(second["id"]) == CACHED | {"publish": "Completed"}
    assert git(repository, "rev-list", "--count", "main").strip() == "3"

    push_params(repository, tmp_path / "theirs", train={"epochs": 2})
    affected = DONE | {"download": "Cached", "publish": "Completed"}
    wait_until(
        lambda: affected in [scheduled.stages(run["id"]) for run in completed(scheduled)],
        300,
        "a run of train, evaluate and save",
    )
    assert "Retrain: not significantly worse" in git(repository, "log", "-1", "main")
    assert git(repository, "rev-list", "--count", "main").strip() == "5"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_schedule_stops_everything(scheduled, end):
    """In the midst of a training: no process stays; started again, it works by itself."""
    schedule = start_schedule(scheduled)
    wait_until(lambda: runs(scheduled), 200, "a tick")
    wait_until(lambda: not busy(scheduled), 200, "the tick has ended")
    run = scheduled.run("manual", **LONG)
    wait_for_line(scheduled, run, "Train Epoch: 2 ")
    schedule.send_signal(end)
    assert schedule.wait(60) == 0
    wait_until(lambda: not scheduled.family(), 10, "no process is left")
    start_schedule(scheduled)
    assert scheduled.wait(run, seconds=180)["type"] in ("CRASHED", "FAILED", "CANCELLED")
    works(scheduled, "manual")


def runs(service: Service) -> list[dict[str, str]]:
    """The nightly runs that have begun, none while the deployment is not there yet."""
    with suppress(httpx.HTTPStatusError):
        return service.runs("nightly")
    return []


def busy(service: Service) -> bool:
    """Whether a nightly run is at work."""
    return any(run["state"]["type"] in ("PENDING", "RUNNING") for run in runs(service))


def completed(service: Service) -> list[dict[str, str]]:
    """The nightly runs that have completed, in the order of their start."""
    return [run for run in runs(service) if run["state"]["type"] == "COMPLETED"]


def test_tick_during_a_run_is_cancelled(service):
    """The second run says why; the first goes on; cancelling it ends the trainer in seconds."""
    service.start_worker()
    first = service.run("nightly", **LONG)
    wait_for_line(service, first, "Train Epoch: 2 ")
    state = service.wait(service.run("nightly"), "CANCELLED")
    assert "concurrency limit" in state["message"]
    assert service.state(first)["type"] == "RUNNING"

    family = service.family_of(first)
    assert any("mnist_pipeline.train" in process.cmdline() for process in family)
    service.api(
        "POST", f"flow_runs/{first}/set_state", state={"type": "CANCELLING", "name": "Cancelling"}
    )
    begin = time.monotonic()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    print(f"cancelled: all processes gone after {time.monotonic() - begin:.1f} s")
    assert service.wait(first, seconds=60)["type"] == "CANCELLED"
    works(service)


def test_one_of_the_late_runs_works(service):
    """Five runs late after an outage: one works, four are cancelled and say why."""
    deployment = service.deployment("nightly")["id"]
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=30)
    late = []
    for minutes in range(5):
        when = (past + datetime.timedelta(minutes=minutes)).isoformat()
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": when}}
        path = f"deployments/{deployment}/create_flow_run"
        late.append(service.api("POST", path, state=state, parameters={"publish": "none"})["id"])
    time.sleep(10)
    service.start_worker()
    ends = [service.wait(run) for run in late]
    assert sorted(end["type"] for end in ends) == ["CANCELLED"] * 4 + ["COMPLETED"], ends
    reasons = {end["message"] for end in ends if end["type"] == "CANCELLED"}
    assert reasons == {"Deployment concurrency limit reached."}


def test_run_outlives_a_restart_of_the_server(tmp_path, repository):
    """The server is killed in mid-run and comes back: watched for over 4 minutes, to its end."""
    service = Service(tmp_path, repository)
    server = service.start_server()
    try:
        service.install()
        service.start_worker()
        run = service.run("nightly", overrides={"train.epochs": 320}, publish="branch")
        wait_for_line(service, run, "Train Epoch: 2 ")
        server.kill()
        server.wait()
        time.sleep(10)
        service.start_server()
        begin = time.monotonic()
        while service.state(run)["type"] == "RUNNING":
            assert time.monotonic() - begin < 1800
            time.sleep(2)
        watched = time.monotonic() - begin
        assert service.state(run)["type"] == "COMPLETED", service.state(run)
        assert watched > 240, "too short to tell: raise the number of epochs"
        works(service)
    finally:
        service.stop()


def flow(family: list[psutil.Process], worker: "subprocess.Popen[str]") -> None:
    """Kill the flow's process."""
    family[0].kill()


def worker_and_flow(family: list[psutil.Process], worker: "subprocess.Popen[str]") -> None:
    """Kill the worker first, so that nobody is left to report the flow's end."""
    worker.kill()
    worker.wait()
    family[0].kill()


def stage(family: list[psutil.Process], worker: "subprocess.Popen[str]") -> None:
    """Kill the training itself; the task tries once more, from the last epoch."""
    (training,) = (one for one in family if "mnist_pipeline.train" in one.cmdline())
    training.kill()


Killer = Callable[[list[psutil.Process], "subprocess.Popen[str]"], None]


@pytest.mark.parametrize("moment", ["PENDING", "RUNNING"])
@pytest.mark.parametrize("kill", [flow, worker_and_flow])
def test_killed_run_ends_and_the_next_one_works(service, kill, moment):
    """SIGKILL: the run is over within three minutes, no process and no slot stays."""
    worker = service.start_worker()
    run = service.run("nightly", **LONG)
    service.wait(run, moment)
    if moment == "RUNNING":
        wait_for_line(service, run, "Train Epoch: 2 ")
    family = wait_until(lambda: service.family_of(run), 20, "the run has a process")
    begin = time.monotonic()
    kill(family, worker)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert service.wait(run, seconds=180)["type"] in ("CRASHED", "FAILED")
    print(f"{kill.__name__} {moment}: over after {time.monotonic() - begin:.0f} s")
    if worker.poll() is not None:
        service.start_worker()
    works(service)


def test_killed_stage_is_tried_again(service):
    """SIGKILL of the training alone: the task's second attempt resumes it."""
    service.start_worker()
    run = service.run("nightly", overrides={"train.epochs": 40}, publish="none")
    wait_for_line(service, run, "Train Epoch: 5 ")
    stage(service.family_of(run), None)
    assert service.wait(run, seconds=400)["type"] == "COMPLETED"
    wait_for_line(service, run, "Resumed after epoch")


def test_killed_worker_leaves_its_run_at_work(service):
    """SIGKILL of the worker alone: the flow goes on; another worker takes the next run."""
    worker = service.start_worker()
    run = service.run("nightly", overrides={"train.epochs": 30}, publish="none")
    wait_for_line(service, run, "Train Epoch: 2 ")
    worker.kill()
    worker.wait()
    assert service.wait(run, seconds=400)["type"] == "COMPLETED"
    service.start_worker()
    works(service)
