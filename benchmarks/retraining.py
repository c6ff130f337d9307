"""make bench-retraining: what the schedule and a search cost, as a table in retraining.md.

A real server, worker, git and DVC remote on this machine, the embedded digits for data. What
Prefect adds is the difference to plain dvc repro on the same commit, in turns, from nothing.
"""

import datetime
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import psutil
from joblib import cpu_count

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests")]

from flows.clones import override_params  # noqa: E402
from flows.schedule import end  # noqa: E402
from service import Service, digits_repository, wait_until  # noqa: E402 (beside the tests)

TABLE = ROOT / "benchmarks/retraining.md"
ROUNDS, EPOCHS = 3, 10
TRIALS, SHORT, QUEUED = 8, 2, 200  # of a search: trials, their epochs, and trials that only wait


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


def plain(service: Service, name: str) -> float:
    """Seconds of dvc repro for what a trial trains, in a clone that has its data."""
    clone = service.folder / name
    subprocess.run(["git", "clone", "--quiet", str(service.origin), str(clone)], check=True)
    override_params(clone, {"train.epochs": SHORT})
    for command in (["dvc", "repro", "download"], ["dvc", "repro"]):
        begin = time.monotonic()
        subprocess.run(command, cwd=clone, env=service.environment, check=True, capture_output=True)
    return time.monotonic() - begin


def search(service: Service, workers: int, first: int) -> float:
    """Seconds from the order of a search's first trial to the end of its last.

    Its seeds begin with `first`. Twice as many trials are ordered as there are workers, so that
    none waits for the coordinator.
    """
    pool = [service.start_worker("--limit", "1", home=f"machine-{one}") for one in range(workers)]
    seeds = list(range(first, first + TRIALS))
    grid = {"train.epochs": [SHORT], "train.seed": seeds}
    run = service.run("search/manual", grid=grid, parallel=2 * workers)
    service.wait(run, "COMPLETED", seconds=1800)
    found = service.api("POST", "flow_runs/filter", flows={"name": {"any_": ["trial"]}})
    ours = [run for run in found if run["parameters"]["overrides"]["train.seed"] in seeds]
    ordered = min(datetime.datetime.fromisoformat(run["created"]) for run in ours)
    ended = max(datetime.datetime.fromisoformat(run["end_time"]) for run in ours)
    for worker in pool:
        stop(worker)
    return (ended - ordered).total_seconds()


def coordinator(service: Service) -> float:
    """MB that a search's process holds, once it has ordered QUEUED trials."""
    run = service.run("search/manual", grid={"train.seed": list(range(QUEUED))}, parallel=QUEUED)
    waiting = {"flows": {"name": {"any_": ["trial"]}}}
    waiting |= {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    path = "flow_runs/count"
    wait_until(lambda: service.api("POST", path, **waiting) == QUEUED, 400, "all are ordered")
    process = max(service.family_of(run), key=lambda one: one.memory_info().rss)
    return float(process.memory_info().rss / 1e6)


def searches(service: Service) -> Iterator[str]:
    """What a search costs, as lines of Markdown; the last search is left running."""
    service.start_worker(pool="search")
    bare, alone, pair = [], [], []
    for number in range(ROUNDS):
        bare.append(plain(service, f"plain-{number}"))
        alone.append(search(service, 1, 1000 * number))
        pair.append(search(service, 2, 1000 * number + 500))
    yield f"| search: {TRIALS} trials of {SHORT} epochs on the digits, 1 worker | {spread(alone)} |"
    yield f"| the same, 2 workers on the same cores | {spread(pair)} |"
    ratios = [one / two for one, two in zip(alone, pair, strict=True)]
    yield f"| one worker's seconds over two workers', round by round | {spread(ratios, 2)} |"
    yield f"| plain `dvc repro` of such a trial | {spread(bare)} |"
    added = [all_of_them / TRIALS - one for all_of_them, one in zip(alone, bare, strict=True)]
    yield f"| what the search adds to a trial, one worker | {spread(added)} |"
    yield f"| MB of the coordinator with {QUEUED} trials ordered | {coordinator(service):,.0f} |"


def stop(worker: subprocess.Popen[bytes]) -> None:
    """End a worker, which may hang when it is asked to."""
    end(psutil.Process(worker.pid))
    worker.wait()


def spread(values: list[float], digits: int = 1) -> str:
    """Median (least to greatest)."""
    middle, least, greatest = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f} to {greatest:.{digits}f})"


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
    stop(worker)
    yield f"{cpu_count()} cores; {ROUNDS} rounds; seconds, median (least to greatest)."
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
            for line in chain(table(service), searches(service)):
                print(line, flush=True)
                lines.append(line)
        finally:
            service.stop()
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
