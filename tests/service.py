"""A Prefect service of a test's own, and repositories for the flow to work on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
from conftest import fresh_copy, git, reproduce
from flows import schedule, versions
from flows.clones import override_params, temporary_clone
from flows.retrain import publish_result

from mnist_pipeline.leash import leashed

# Appended to a module of the flow's own code, this marks each run that imports it.
MARK = """
if "PREFECT__FLOW_RUN_ID" in os.environ:
    __import__("pathlib").Path(__file__).with_name(os.environ["PREFECT__FLOW_RUN_ID"]).touch()
"""
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
# A DVC remote that another folder would look for elsewhere.
NEAR = "[core]\n    remote = near\n['remote \"near\"']\n    url = ../../near\n"
CONFIG = """[core]
    remote = store
    check_update = false
['remote "store"']
    url = {}
"""
REGISTRY = """stages:
  train:
    cmd: cp source model; cp errors wrong
    deps: [source, errors]
    outs: [model, wrong]
  evaluate:
    cmd: mkdir -p metrics; python src/score.py
    deps: [model, wrong, images, src/score.py]
    metrics: [{metrics/metrics.json: {cache: false}}, {metrics/errors.csv: {cache: false}}]
artifacts:
  mnist-cnn: {path: model}
"""
SCORE = """import json
errors, total = int(open("wrong").read()), 1000
right = {"accuracy": 1 - errors / total, "correct": total - errors, "total": total}
others = {"loss": 0.1, "recall": {"0": 1.0, "1": 0.9}, "dry_run": False}
json.dump(right | others, open("metrics/metrics.json", "w"))
rows = "".join(f"{index},1,0,0.9\\n" for index in range(errors))
open("metrics/errors.csv", "w").write("index,label,predicted,confidence\\n" + rows)
"""

# Stages that take no time, for the project's parameters.
QUICK = """stages:
  download: {cmd: echo data > data/images, outs: [data/images]}
  train:
    cmd: python train.py
    params: [train]
    outs: [models/weights]
    metrics: [{metrics/history.csv: {cache: false}}]
  evaluate:
    cmd: cp metrics.json errors.csv metrics
    deps: [data/images, models/weights]
    metrics: [{metrics/metrics.json: {cache: false}}, {metrics/errors.csv: {cache: false}}]
  save: {cmd: cp models/weights models/exported, deps: [models/weights], outs: [models/exported]}
"""
QUICK_TRAIN = """import pathlib, sys
from ruamel.yaml import YAML
train = YAML(typ="safe").load(pathlib.Path("params.yaml"))["train"]
if train["lr"] * train["seed"] > 2:
    sys.exit("error: params.yaml: train.lr: expected a finite loss")
for folder in ("models", "metrics"):
    pathlib.Path(folder).mkdir(exist_ok=True)
pathlib.Path("models/weights").write_text(f"searched {train['lr']} {train['seed']}")
history = f"epoch,validation_accuracy\\n1,{0.97 + train['seed'] / 100}\\n"
pathlib.Path("metrics/history.csv").write_text(history)
"""
CHECK = '''"""Every value is fine as it is: the project's own check would load torch."""
import sys


def main() -> None:
    print(sys.argv[1])
'''
NINE = {"accuracy": 1.0, "loss": 0.1, "correct": 9, "total": 9, "recall": {}, "dry_run": False}


def small_registry(folder: Path) -> Path:
    """A bare repository whose model is the file source, wrong on the first eight test images."""
    texts = {"dvc.yaml": REGISTRY, "src/score.py": SCORE, "images": "", "errors": "8"}
    texts["source"] = "1"
    texts["params.yaml"] = "save: {min_accuracy: 0.95}"
    return bare(repository(folder / "seed", texts))


def change(
    origin: Path, repro: bool = False, overrides: dict[str, Any] | None = None, **files: Any
) -> None:
    """Push other files or parameters to main, as somebody would, with or without their result."""
    with temporary_clone(str(origin), "main") as folder:
        override_params(folder, overrides or {})
        for name, content in files.items():
            whole = content if isinstance(content, bytes) else str(content).encode()
            (folder / name).write_bytes(whole)
        if repro:
            reproduce(folder)
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message=change")
        git(folder, "push", "--quiet", "origin", "HEAD:main")


def retrained(origin: Path) -> str:
    """What one scheduled run says: the stages, then the gate and the push, in a new clone."""
    with temporary_clone(str(origin), "main") as folder:
        reproduce(folder)
        state = publish_result.fn(folder, "main", "main", 0.05)
    reason = state.message if state.is_failed() else state.message.partition(":")[0]
    return str(reason)


def roll_back(origin: Path, name: str = "") -> str:
    """What `make rollback` does."""
    with temporary_clone(str(origin), "main") as folder:
        return versions.rollback(folder, name)


def digits_repository(folder: Path, epochs: int = 1) -> Path:
    """A bare repository of the project on the digits; nothing was published yet."""
    seed = fresh_copy(folder / "seed")
    few = {"data.source": "digits", "train.epochs": epochs, "save.min_accuracy": 0.0}
    override_params(seed, few)
    return bare(seed)


def quick_project(folder: Path) -> Path:
    """The project with stages that take no time; learning rate times seed must not be above 2."""
    fresh_copy(folder)
    texts = {"dvc.yaml": QUICK, "train.py": QUICK_TRAIN, "src/mnist_pipeline/check.py": CHECK}
    texts |= {"metrics.json": json.dumps(NINE), "errors.csv": "index,label,predicted\n"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=quick")
    return folder


def repository(folder: Path, texts: dict[str, str]) -> Path:
    """A repository of git and DVC in a new folder, with these files; nothing is committed."""
    dvcs = {".dvc/config": "", ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n"}
    for name, text in (dvcs | texts).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "--quiet", "--initial-branch=main")
    return folder


def bare(seed: Path) -> Path:
    """A bare repository of a folder's files, beside it, with a DVC remote."""
    (seed / ".dvc/config").write_text(CONFIG.format(seed.parent / "store"))
    git(seed, "add", "--all")
    git(seed, "commit", "--quiet", "--message=seed")
    git(seed, "clone", "--quiet", "--bare", ".", str(seed.parent / "origin.git"))
    return seed.parent / "origin.git"


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for a value that counts as true, and return it; fails after a time."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.5)
    return value


class Service:
    """A Prefect server on a free port of 127.0.0.1, with a home folder of its own."""

    def __init__(self, folder: Path, origin: Path) -> None:
        self.folder, self.origin = folder, origin
        self.checkout = folder / "checkout"
        git(folder, "clone", "--quiet", str(origin), str(self.checkout))
        self.port = schedule.free_port("0")
        settings = schedule.settings(self.port)
        self.url = settings["PREFECT_API_URL"]
        self.environment = os.environ | settings
        self.environment |= {
            "PREFECT_HOME": str(folder / "prefect"),
            "TMPDIR": str(folder),  # a killed run leaves files there
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_WORKER_QUERY_SECONDS": "3",
            "XDG_CACHE_HOME": str(folder / "cache"),
            "MNIST_PIPELINE": str(self.checkout),
            "PYTHONPATH": f"{self.checkout / 'src'}:{self.checkout}",
            "OMP_WAIT_POLICY": "passive",
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        # One for all requests, as each takes 25 ms to make; no connection outlives the server.
        self.client = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))

    def start(self, *command: str, **variables: str) -> subprocess.Popen[bytes]:
        """Start a command of this service in a process group of its own, its output in a file."""
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                leashed(*command),
                cwd=self.checkout,
                env=self.environment | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_server(self) -> subprocess.Popen[bytes]:
        """Start Prefect's server, and wait until it answers."""
        words = ("server", "start", "--host", "127.0.0.1", "--port", str(self.port))
        server = self.start("prefect", *words)
        wait_until(self.healthy, 300, "Prefect's server answers")
        return server

    def start_worker(
        self, *options: str, pool: str = schedule.POOL, home: str = "cache"
    ) -> subprocess.Popen[bytes]:
        """A worker for a pool; with a home and cache of its own it stands for another machine."""
        command = ("prefect", "worker", "start", "--pool", pool, *options)
        return self.start(*command, XDG_CACHE_HOME=str(self.folder / home))

    def online(self) -> int:
        """How many workers a search would find online."""
        workers = self.api("POST", "work_pools/retrain/workers/filter")
        return sum(worker["status"] == "ONLINE" for worker in workers)

    def install(self) -> None:
        """Pool, deployments and automations, as make schedule installs them."""
        code = "from flows.schedule import install; install('--all')"
        assert self.start(sys.executable, "-c", code).wait(300) == 0

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return self.client.get(f"{self.url}/health", timeout=5).is_success
        except httpx.TransportError:
            return False

    def api(self, method: str, path: str, **json: Any) -> Any:
        """What Prefect's REST API answers; asked again while SQLite is locked, as Prefect does."""
        for _ in range(10):
            with suppress(httpx.ReadTimeout):
                answer = self.client.request(method, f"{self.url}/{path}", json=json or None)
                if answer.status_code != 503:
                    answer.raise_for_status()
                    return answer.json() if answer.content else None
            time.sleep(1)
        raise AssertionError(f"the server does not answer {method} {path}")

    def deployment(self, name: str) -> Any:
        """A deployment by its name; one of retrain's if no flow is named."""
        whole = name if "/" in name else f"retrain/{name}"
        return self.api("GET", f"deployments/name/{whole}")

    def run(self, name: str, **parameters: Any) -> str:
        """Order a run of a deployment, now; returns its id."""
        path = f"deployments/{self.deployment(name)['id']}/create_flow_run"
        once = {"parameters": parameters, "idempotency_key": str(uuid4())}  # api may ask twice
        return str(self.api("POST", path, **once)["id"])

    def cancel(self, run: str) -> None:
        """Cancel a run, as the dashboard's button does."""
        cancelling = {"type": "CANCELLING", "name": "Cancelling"}
        self.api("POST", f"flow_runs/{run}/set_state", state=cancelling)

    def runs(self, flow: str) -> Any:
        """Every run of a flow."""
        return self.api("POST", "flow_runs/filter", flows={"name": {"any_": [flow]}})

    def state(self, run: str) -> Any:
        """A run's state: type, name, message."""
        return self.api("GET", f"flow_runs/{run}")["state"]

    def wait(self, run: str, *types: str, seconds: float = 300) -> Any:
        """The run's state when it is of one of these types; fails if it ends with another."""
        wanted = types or FINAL
        either = (*wanted, *FINAL)
        state = wait_until(
            lambda: (now := self.state(run))["type"] in either and now, seconds, f"{wanted}"
        )
        assert state["type"] in wanted, state
        return state

    def tasks(self, run: str) -> dict[str, str]:
        """Task → name of its state, which the server learns seconds later."""
        found = self.api("POST", "task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return {task["name"].rsplit("-", 1)[0]: task["state_name"] for task in found}

    def wait_for_tasks(self, run: str, expected: dict[str, str]) -> None:
        """Wait until the server knows that a run that has ended had these tasks."""
        wait_until(lambda: self.tasks(run) == expected, 60, f"{expected}")

    def log(self, run: str) -> list[str]:
        """What a run has logged."""
        where = {"flow_run_id": {"any_": [run]}}
        found = self.api("POST", "logs/filter", logs=where, sort="TIMESTAMP_ASC", limit=200)
        return [line["message"] for line in found]

    def artifacts(self, run: str) -> dict[str, Any]:
        """Key → content of a run's artifacts."""
        where = {"flow_run_id": {"any_": [run]}}
        found = self.api("POST", "artifacts/filter", artifacts=where)
        return {artifact["key"]: artifact["data"] for artifact in found}

    def family(self, **variables: str) -> list[psutil.Process]:
        """Every living process that has this service's home and these variables, oldest first."""
        wanted = {"PREFECT_HOME": self.environment["PREFECT_HOME"]} | variables
        everyone = psutil.process_iter(["environ", "create_time"])
        found = [one for one in everyone if wanted.items() <= (one.info["environ"] or {}).items()]
        return sorted(found, key=lambda one: one.info["create_time"])

    def family_of(self, run: str) -> list[psutil.Process]:
        """The living processes of a run: its flow first, then dvc and the stage."""
        return self.family(PREFECT__FLOW_RUN_ID=run)

    def stop(self) -> None:
        """Kill every process, also those that are started meanwhile."""
        while family := self.family():
            for process in family:
                with suppress(psutil.NoSuchProcess):  # ended with the one before
                    process.kill()
            psutil.wait_procs(family, timeout=10)
        for process in self.processes:
            process.wait()
        self.client.close()
