"""make schedule: Prefect's server, deployments and workers on this machine, until Ctrl-C.

python -m flows.schedule

The server listens on 127.0.0.1 alone; its database (SQLite) lies in Prefect's own folder.
PREFECT_SERVER_API_PORT names another port than 4200, PREFECT_HOME another folder.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import httpx
import psutil

from flows import command
from flows.clones import ROOT
from mnist_pipeline.files import InputError
from mnist_pipeline.leash import leashed

HOST, POOL, SEARCH = "127.0.0.1", "retrain", "search"
TAG = "mnist_pipeline"  # of each run that flows/server.py watches, see prefect.yaml
START, STOP = 120, 15  # seconds that the server may take to start, and a child to end


def main() -> None:
    """Start everything and wait; stop it all on Ctrl-C, or on SIGTERM from a service manager."""
    port = free_port(os.environ.get("PREFECT_SERVER_API_PORT", "4200"))
    print(f"Starting Prefect's server on {HOST}:{port}, the deployments and the workers")
    try:
        with service(port, [["--pool", POOL], ["--pool", SEARCH]], "--all") as processes:
            print(f"Dashboard: http://{HOST}:{port}\nCtrl-C stops everything.")
            while all(process.poll() is None for process in processes):
                time.sleep(1)
        raise InputError("the server or a worker has ended; see its messages")
    except KeyboardInterrupt:
        print("Stopped.")


@contextmanager
def service(
    port: int, workers: list[list[str]], *deployments: str, log: IO[str] | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A server with deployments, and workers with these options; all of them end with the block.

    SIGINT and SIGTERM end the block, whatever handler this process started with, and so does the
    terminal's end, unless nohup has started it. The children write to `log`, or else to this
    process's own output.
    """
    os.environ |= settings(port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with ExitStack() as stack:

        def start(*words: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(child(*words, log=log))

        server = start("server", "start", "--host", HOST, "--port", str(port))
        wait_for_health(server)
        install(*deployments)
        yield [server, *(start("worker", "start", *words) for words in workers)]


def free_port(value: str) -> int:
    """The port's number, that of any free port for 0. InputError if it is no port, or taken."""
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            trial.bind((HOST, int(value)))
            return int(trial.getsockname()[1])
    except (OSError, OverflowError, ValueError) as error:
        message = f"PREFECT_SERVER_API_PORT: expected a free port, found {value!r}: {error}"
        raise InputError(message) from error


def settings(port: int) -> dict[str, str]:
    """What server, deployments and worker must agree on, as environment variables."""
    direct = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return {
        "PREFECT_API_URL": f"http://{HOST}:{port}/api",
        "no_proxy": ",".join(filter(None, [HOST, direct])),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",  # at a terminal Prefect would say that it collects data
        # On disk: a server that forgets who holds a slot crashes the running training.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        # Else a server that was away for minutes forgets which runs it was watching.
        "PREFECT_SERVER_EVENTS_EXPIRED_BUCKET_BUFFER": "P7D",
        "MNIST_PIPELINE": str(ROOT),  # for prefect.yaml
        # A run starts python, dvc and git by name.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }


@contextmanager
def child(*words: str, log: IO[str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A prefect command that Ctrl-C does not reach. It ends with the block or this process."""
    command = leashed("prefect", "--no-prompt", *words)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                end(psutil.Process(process.pid))


def end(process: psutil.Process) -> None:
    """End a process after its descendants. What does not end within STOP seconds is killed."""
    for family in (process.children(recursive=True), [process]):
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        for one in psutil.wait_procs(family, timeout=STOP)[1]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


def wait_for_health(server: subprocess.Popen[bytes]) -> None:
    """Return when the server answers; InputError if it does not start."""
    deadline = time.monotonic() + START
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{os.environ['PREFECT_API_URL']}/health").is_success:
                return
        time.sleep(0.5)
    late = f"has not answered within {START} seconds" if server.poll() is None else "has ended"
    raise InputError(f"Prefect's server {late}; see its messages")


def install(*deployments: str) -> None:
    """Create the pools, deployments and automations that this checkout's files describe."""
    for words in (
        [sys.executable, "-m", "flows.server"],
        ["prefect", "--no-prompt", "deploy", *deployments],
    ):
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InputError(f"{' '.join(words)} failed: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    with command(__doc__):
        main()
