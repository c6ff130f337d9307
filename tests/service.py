"""A Prefect service of a test's own: server, worker, deployments, and the repository it serves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from conftest import ROOT, copy_of_project, dvc, git
from flows import schedule
from ruamel.yaml import YAML

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")


def digits_repository(folder: Path, **train: Any) -> Path:
    """A bare repository of the project on the digits, with a DVC remote; nothing published yet."""
    seed = folder / "seed"
    seed.mkdir(parents=True)
    copy_of_project(seed)
    change_params(seed, data={"source": "digits"}, save={"min_accuracy": 0.0})
    change_params(seed, train={"epochs": 1} | train)
    assert dvc(seed, "remote", "add", "--default", "store", str(folder / "store")).returncode == 0
    git(seed, "rm", "--quiet", "-r", "dvc.lock", "metrics")
    git(seed, "commit", "--quiet", "--all", "--message=digits")
    git(seed, "clone", "--quiet", "--bare", ".", str(folder / "origin.git"))
    return folder / "origin.git"


def change_params(folder: Path, **sections: dict[str, Any]) -> None:
    """Change params.yaml of a folder: change_params(folder, train={"lr": 0.5})."""
    path, yaml = folder / "params.yaml", YAML()
    tree = yaml.load(path)
    for section, values in sections.items():
        tree[section].update(values)
    yaml.dump(tree, path)


def push_params(origin: Path, folder: Path, **sections: dict[str, Any]) -> None:
    """Change parameters on a bare repository's main, as somebody would from a clone."""
    git(folder.parent, "clone", "--quiet", str(origin), str(folder))
    change_params(folder, **sections)
    git(folder, "commit", "--quiet", "--all", "--message=parameters")
    git(folder, "push", "--quiet", "origin", "HEAD:main")


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first value that counts as true; fails after a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")


class Service:
    """A Prefect server on a free port of 127.0.0.1, with a home folder of its own."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder, self.origin = folder, origin
        self.checkout = folder / "checkout"
        git(origin.parent, "clone", "--quiet", str(origin), str(self.checkout))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.environment = (
            os.environ
            | schedule.settings(self.port)
            | {
                "PREFECT_HOME": str(folder / "prefect"),
                "PREFECT_SERVER_API_PORT": str(self.port),
                "PREFECT_WORKER_QUERY_SECONDS": "3",
                "XDG_CACHE_HOME": str(folder / "cache"),
                "MNIST_PIPELINE": str(self.checkout),
                "PYTHONPATH": f"{self.checkout / 'src'}:{self.checkout}",
                "OMP_WAIT_POLICY": "passive",
            }
        )
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A command of this service, out of our process group; its output in a file."""
        log = self.folder / f"{len(self.processes)}-{'-'.join(command[1:3])}.log".replace("/", "")
        leash = [sys.executable, str(ROOT / "flows/leash.py"), str(os.getpid())]
        with log.open("w") as file:
            process = subprocess.Popen(
                [*leash, *command],
                cwd=self.checkout,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_server(self) -> subprocess.Popen[str]:
        """Prefect's server, answering."""
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        server = self.start("prefect", *words)
        wait_until(self.healthy, 120, "Prefect's server answers")
        return server

    def start_worker(self) -> subprocess.Popen[str]:
        """A worker for the pool."""
        return self.start("prefect", "worker", "start", "--pool", schedule.POOL)

    def install(self) -> None:
        """Pool, deployments and automations, as make schedule installs them."""
        code = "from flows.schedule import install; install()"
        assert self.start(sys.executable, "-c", code).wait(120) == 0

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx.get(f"{self.environment['PREFECT_API_URL']}/health").is_success
        except httpx.TransportError:
            return False

    def api(self, method: str, path: str, **json: Any) -> Any:
        """What Prefect's REST API answers; asked again while SQLite is locked, as Prefect does."""
        url = f"{self.environment['PREFECT_API_URL']}/{path}"
        for _ in range(10):
            answer = httpx.request(method, url, json=json or None, timeout=60)
            if answer.status_code != 503:
                break
            time.sleep(1)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        """A deployment by name."""
        found: dict[str, Any] = self.api("GET", f"deployments/name/retrain/{name}")
        return found

    def run(self, name: str, **parameters: Any) -> str:
        """Order a run of a deployment, now; its id."""
        path = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        return str(self.api("POST", path, parameters=parameters)["id"])

    def state(self, run: str) -> dict[str, Any]:
        """A run's state: type, name, message."""
        found: dict[str, Any] = self.api("GET", f"flow_runs/{run}")["state"]
        return found

    def wait(self, run: str, *types: str, seconds: float = 300) -> dict[str, Any]:
        """The run's state when it is of one of these types, or final."""
        wanted = types or FINAL
        wait_until(lambda: self.state(run)["type"] in (*wanted, *FINAL), seconds, f"{wanted}")
        state = self.state(run)
        assert state["type"] in wanted, state
        return state

    def stages(self, run: str) -> dict[str, str]:
        """Task → name of its state."""
        found = self.api("POST", "task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {task["name"].rsplit("-", 1)[0]: task["state"]["name"] for task in found}

    def runs(self, name: str) -> list[dict[str, Any]]:
        """A deployment's runs that have begun or ended, oldest first."""
        where = {"id": {"any_": [self.deployment(name)["id"]]}}
        found = self.api("POST", "flow_runs/filter", deployments=where, sort="START_TIME_ASC")
        return [run for run in found if run["state"]["type"] != "SCHEDULED"]

    def log(self, run: str) -> list[str]:
        """What a run has logged."""
        where = {"flow_run_id": {"any_": [run]}}
        found = self.api("POST", "logs/filter", logs=where, sort="TIMESTAMP_ASC", limit=200)
        return [line["message"] for line in found]

    def family(self, **variables: str) -> list[psutil.Process]:
        """Every living process that has this service's home, and these variables."""
        wanted = {"PREFECT_HOME": self.environment["PREFECT_HOME"]} | variables
        found = []
        for process in psutil.process_iter():
            try:
                if wanted.items() <= process.environ().items() and process.status() != "zombie":
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def family_of(self, run: str) -> list[psutil.Process]:
        """The living processes of a run: its flow first, then dvc and the stage."""
        found = self.family(PREFECT__FLOW_RUN_ID=run)
        return sorted(found, key=lambda process: len(process.parents()))

    def stop(self) -> None:
        """End everything, worker first; what is left is killed."""
        for process in reversed(self.processes):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for process in self.family():
            process.kill()
