"""The flow against a real Prefect server, with real git and DVC remotes, on the digits."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import ROOT, copy_of_project, dvc, git
from ruamel.yaml import YAML


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that name a Prefect server of these tests' own."""
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "XDG_CACHE_HOME": str(home / "cache"),
        "PYTHONPATH": f"{ROOT}/src:{ROOT}",
    }
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL) as server:
        for _ in range(300):
            try:
                if httpx.get(f"{variables['PREFECT_API_URL']}/health").is_success:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        else:
            pytest.fail("Prefect's server did not start")
        yield variables
        server.terminate()


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository of the project on the digits, with a DVC remote; nothing published yet."""
    seed = tmp_path / "seed"
    seed.mkdir()
    copy_of_project(seed)
    yaml, path = YAML(), seed / "params.yaml"
    tree = yaml.load(path)
    tree["data"]["source"], tree["train"]["epochs"], tree["save"]["min_accuracy"] = "digits", 1, 0.0
    yaml.dump(tree, path)
    assert dvc(seed, "remote", "add", "--default", "store", str(tmp_path / "store")).returncode == 0
    git(seed, "rm", "--quiet", "-r", "dvc.lock", "metrics")
    git(seed, "commit", "--quiet", "--all", "--message=digits")
    git(seed, "clone", "--quiet", "--bare", ".", str(tmp_path / "origin.git"))
    return tmp_path / "origin.git"


def start(environment: dict[str, str], **parameters: object) -> subprocess.Popen[str]:
    """The flow as a program of its own; its log, and at the end its final state."""
    code = (
        "from flows.retrain import retrain\n"
        f"state = retrain(**{parameters!r}, return_state=True)\n"
        "print('END', state.type.value, state.name, state.message)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def retrain(environment: dict[str, str], **parameters: object) -> str:
    """Run the flow to its end; the log."""
    with start(environment, **parameters) as flow:
        return flow.communicate()[0]


def test_first_run_publishes_and_the_next_has_nothing_to_do(environment, origin):
    """One commit on main; then four times Cached, and main stays."""
    log = retrain(environment, repository=str(origin), publish="main")
    assert "END COMPLETED Completed main: the first publication" in log, log
    assert git(origin, "rev-list", "--count", "main").strip() == "3"
    log = retrain(environment, repository=str(origin), publish="main")
    assert log.count("Finished in state Cached('DVC had nothing to do'") == 4, log
    assert "END COMPLETED Completed" in log
    assert git(origin, "rev-list", "--count", "main").strip() == "3"


@pytest.mark.parametrize(
    ("parameters", "end"),
    [
        ({"publish": "main", "overrides": {"train.lr": 0.5}}, "END FAILED Refused overrides: "),
        ({"overrides": {"train.speed": 1}}, "END FAILED Refused overrides: train.speed: "),
        ({"branch": "nowhere"}, "END FAILED Refused git: "),
        ({"alpha": 2}, "Input should be less than 1"),
        ({"publish": "everywhere"}, "Input should be 'none', 'branch' or 'main'"),
    ],
)
def test_bad_parameters_are_refused_by_name(environment, origin, parameters, end):
    """Before any stage runs."""
    log = retrain(environment, repository=str(origin), **parameters)
    assert end in log, log
    assert "Running stage" not in log


def test_killed_flow_leaves_no_process_and_no_clone(environment, origin):
    """SIGKILL of the flow ends dvc and its stage; the next run sweeps the clone and goes on."""
    overrides = {"train.epochs": 50, "train.seed": 2}
    with start(environment, repository=str(origin), overrides=overrides) as flow:
        for line in flow.stdout:
            if "Train Epoch: 2" in line:
                break
        children = psutil.Process(flow.pid).children(recursive=True)
        assert any("dvc" in " ".join(child.cmdline()) for child in children)
        flow.send_signal(signal.SIGKILL)
    gone, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert len(gone) == len(children)
    clones = Path(environment["XDG_CACHE_HOME"]) / "mnist_pipeline/retrain/clones"
    assert len(list(clones.iterdir())) == 1
    log = retrain(environment, repository=str(origin), branch="nowhere")
    assert "END FAILED Refused" in log
    assert list(clones.iterdir()) == []
