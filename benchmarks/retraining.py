"""make bench-retraining: what the schedule costs, as a table in retraining.md.

A real server, worker, git and DVC remote on this machine, the embedded digits for data. What
Prefect adds is the difference to plain dvc repro on the same commit, in turns, from nothing.
"""

import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests")]

from service import Service, digits_repository, wait_until  # noqa: E402 (beside the tests)

TABLE = ROOT / "benchmarks/retraining.md"
ROUNDS, EPOCHS = 3, 10


def whole_run(service: Service, name: str, command: list[str]) -> float:
    """Seconds of a whole run of the four stages in a new clone with an empty cache."""
    folder = service.folder / name
    service.environment["XDG_CACHE_HOME"] = str(folder / "cache")
    clone = ["git", "clone", "--quiet", str(service.origin), str(folder / "clone")]
    subprocess.run(clone, check=True)
    begin = time.monotonic()
    subprocess.run(
        command, cwd=folder / "clone", env=service.environment, check=True, capture_output=True
    )
    return time.monotonic() - begin


def no_op(service: Service) -> float:
    """Seconds from the start of a scheduled flow's process to Completed, with nothing to do."""
    run = service.run("nightly", publish="main")
    started = wait_until(lambda: service.family_of(run), 60, "a process")[0].create_time()
    ended = datetime.datetime.fromisoformat(service.wait(run, "COMPLETED")["timestamp"])
    return ended.timestamp() - started


def kill(service: Service) -> float:
    """Seconds from SIGKILL of worker and flow until the run is no longer Running."""
    worker = service.start_worker()
    run = service.run("nightly", overrides={"train.epochs": 5000}, publish="branch")
    wait_until(lambda: any("Train Epoch" in line for line in service.log(run)), 180, "training")
    family = service.family_of(run)
    for process in (worker, family[0]):
        process.kill()
    begin = time.monotonic()
    worker.wait()
    psutil.wait_procs(family, timeout=20)
    service.wait(run, seconds=400)
    return time.monotonic() - begin


def spread(values: list[float]) -> str:
    """Median (least to greatest)."""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def table(service: Service) -> Iterator[str]:
    """The measurements, as lines of Markdown."""
    flow = "from flows.retrain import retrain; retrain(publish='none')"
    bare, flows = [], []
    for number in range(ROUNDS):
        bare.append(whole_run(service, f"bare-{number}", ["dvc", "repro"]))
        flows.append(whole_run(service, f"flow-{number}", [sys.executable, "-c", flow]))
    service.environment["XDG_CACHE_HOME"] = str(service.folder / "cache")
    worker = service.start_worker()
    service.wait(service.run("nightly", publish="main"), "COMPLETED")
    nothing = [no_op(service) for _ in range(ROUNDS)]
    worker.terminate()
    worker.wait()
    cores = len(os.sched_getaffinity(0))
    yield f"{cores} cores; {ROUNDS} rounds; seconds, median (least to greatest)."
    yield "\n| | seconds |\n|---|---|"
    yield f"| scheduled, nothing to do: start of its process to Completed | {spread(nothing)} |"
    yield f"| whole run of {EPOCHS} epochs on the digits, plain `dvc repro` | {spread(bare)} |"
    yield f"| the same as a flow | {spread(flows)} |"
    added = [a - b for a, b in zip(flows, bare, strict=True)]
    yield f"| what Prefect adds, round by round | {spread(added)} |"
    killed = [kill(service) for _ in range(ROUNDS)]
    yield f"| SIGKILL of worker and flow until the run is no longer Running | {spread(killed)} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = Service(folder, digits_repository(folder / "repository", epochs=EPOCHS))
        try:
            service.start_server()
            service.install()
            lines = []
            for line in table(service):
                print(line, flush=True)
                lines.append(line)
        finally:
            service.stop()
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
