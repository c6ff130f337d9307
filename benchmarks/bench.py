"""make bench: this project beside the classic program, in one run, as a table in table.md.

Each contestant runs in a process of its own, so that its memory can be measured. The contestants
take turns, so that a noisy machine disturbs them alike. The table shows medians, with the least
and the greatest value. Needs data/MNIST (dvc repro download).
"""

import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from matrix import a_busy_core  # beside this file
from ruamel.yaml import YAML

from mnist_pipeline import runtime
from mnist_pipeline.arithmetic import PORTABLE, RuntimeParams
from mnist_pipeline.batches import Data, read_training_data
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.evaluate import EvaluateParams
from mnist_pipeline.files import load_params
from mnist_pipeline.mnist import RAW, TEST_IMAGES, TEST_LABELS
from mnist_pipeline.model import Net, predict
from mnist_pipeline.parallel import Workers
from mnist_pipeline.train import Training, TrainParams

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "benchmarks/table.md"
ROUNDS, STEPS, WARM_UP, BATCH = 5, 100, 10, 64
FEW = 10  # steps in bfloat16 on a CPU without it
EPOCHS, IMAGES = 1, 60_000  # of a whole run
STAGES = ("download", "train", "evaluate", "save")


# The contestants: each prints its images a second and its peak memory in MB as JSON


def classic_train() -> float:
    """Images a second of the classic program's training loop."""
    import classic  # noqa: PLC0415 (beside this file)

    with mnist_for_torchvision() as root:
        training, _ = classic.loaders(root)
        net = classic.Net().to(runtime.find_device("auto"))
        optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
        net.train()
        for number, (data, target) in enumerate(training):
            if number == WARM_UP:
                start = time.perf_counter()
            loss = classic.step(net, data, target, optimizer)
            if number % 10 == 0:
                loss.item()  # the classic program prints it
            if number == WARM_UP + STEPS - 1:
                loss.item()  # waits for an accelerator
                return STEPS * BATCH / (time.perf_counter() - start)
    raise AssertionError("fewer batches than steps")


def project_train(
    steps: int = STEPS, precision: str = "float32", parts: int | None = None
) -> float:
    """Images a second of this project's train_epoch on as many batches of the same size."""
    params = load_params("train", TrainParams, ROOT)
    changes = {
        "batch_size": BATCH,
        "precision": precision,
        "micro_batches": parts or params.micro_batches,
    }
    training = Training(params.model_copy(update=changes), start(), Workers(cpu_count()))
    data, _ = read_training_data(params.validation_fraction, params.seed, weight=1)
    data = Data(*(each.to(training.device) for each in data))
    some = data._replace(learned=data.learned[: steps * BATCH])
    training.train_epoch(1, data._replace(learned=data.learned[: WARM_UP * BATCH]), interval=10)
    begin = time.perf_counter()
    training.train_epoch(2, some, interval=10)
    return steps * BATCH / (time.perf_counter() - begin)


def has_bfloat16() -> bool:
    """Whether this machine computes products in bfloat16 itself."""
    cpu = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.accelerator.is_available() or bool(cpu)


def project_train_bfloat16(parts: int | None = None) -> float:
    """The same in bfloat16, with fewer steps on a CPU without it."""
    return project_train(STEPS if has_bfloat16() else FEW, "bfloat16", parts)


def classic_test() -> float:
    """Images a second of the classic program's test loop."""
    import classic  # noqa: PLC0415 (beside this file)

    with mnist_for_torchvision() as root:
        _, test = classic.loaders(root)
        begin = time.perf_counter()
        classic.test(classic.Net().to(runtime.find_device("auto")), test)
        return len(test.dataset) / (time.perf_counter() - begin)


def project_test() -> float:
    """Images a second of this project's predict, on the test images."""
    device = start()
    images, _ = read_pairs(TEST_IMAGES, TEST_LABELS)
    begin = time.perf_counter()
    size = load_params("evaluate", EvaluateParams, ROOT).batch_size
    predict(Net().to(device), torch.from_numpy(images).to(device), size, Workers(cpu_count()))
    return len(images) / (time.perf_counter() - begin)


def classic_whole() -> float:
    """Images a second of the classic program as a whole: EPOCHS epochs and the test."""
    import classic  # noqa: PLC0415 (beside this file)

    begin = time.perf_counter()
    with mnist_for_torchvision() as root:
        training, test = classic.loaders(root)
        net = classic.Net().to(runtime.find_device("auto"))
        optimizer = torch.optim.Adadelta(net.parameters(), lr=1.0)
        for _ in range(EPOCHS):
            net.train()
            for number, (data, target) in enumerate(training):
                loss = classic.step(net, data, target, optimizer)
                if number % 10 == 0:
                    loss.item()  # the classic program prints it
        classic.test(net, test)
    return EPOCHS * IMAGES / (time.perf_counter() - begin)


def project_whole(
    arithmetic: str = "portable", precision: str = "float32", processes: int = 1
) -> float:
    """The same for the stages train and evaluate, in fresh processes and without stored epochs."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RAW, Path(folder) / RAW)
        (Path(folder) / ".dvc").mkdir()
        yaml = YAML()
        tree = yaml.load(ROOT / "params.yaml")
        tree["runtime"]["arithmetic"] = arithmetic
        tree["train"] |= {"epochs": EPOCHS, "precision": precision, "validation_fraction": 0.0}
        tree["machine"]["processes"] = processes
        yaml.dump(tree, Path(folder) / "params.yaml")
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        begin = time.perf_counter()
        for stage in ("train", "evaluate"):
            command = [sys.executable, "-m", "mnist_pipeline", stage]
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        return EPOCHS * IMAGES / (time.perf_counter() - begin)


STEPPED: dict[str, Callable[[], float]] = {  # of 100 steps, or the test images
    "classic train": classic_train,
    "portable train": project_train,
    "portable train, 2 parts": lambda: project_train(parts=2),
    "portable train, 8 parts": lambda: project_train(parts=8),
    "native train": project_train,
    "native train, bfloat16": project_train_bfloat16,
    "native train, bfloat16, 2 parts": lambda: project_train_bfloat16(parts=2),
    "classic train beside a busy core": classic_train,
    "portable train beside a busy core": project_train,
    "native train beside a busy core": project_train,
    "classic test": classic_test,
    "portable test": project_test,
    "native test": project_test,
}
WHOLE: dict[str, Callable[[], float]] = {  # whole processes
    "classic whole": classic_whole,
    "portable whole": project_whole,
    "portable whole, 2 processes": lambda: project_whole(processes=2),
    "native whole": lambda: project_whole("native"),
}
if has_bfloat16():  # otherwise it takes minutes
    WHOLE["native whole, bfloat16"] = lambda: project_whole("native", "bfloat16")
CONTESTANTS = STEPPED | WHOLE


def start() -> torch.device:
    """Start the stages' runtime, with the arithmetic whose variables `measure` has set."""
    version = torch.__version__.split("+")[0]
    arithmetic: Any = "portable" if PORTABLE.items() <= os.environ.items() else "native"
    return runtime.start(RuntimeParams(device="auto", arithmetic=arithmetic, torch=version))


@contextmanager
def mnist_for_torchvision() -> Iterator[Path]:
    """A folder where torchvision finds the four files, and may unpack them."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(RAW, Path(name) / "MNIST/raw")
        yield Path(name)


def measure(name: str) -> dict[str, float]:
    """Run a contestant in a process of its own, beside a busy process if its name says so."""
    environment = os.environ | (PORTABLE if name.startswith("portable") else {})
    with a_busy_core() if "busy" in name else nullcontext():
        done = subprocess.run(
            [sys.executable, __file__, name],
            check=True,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name}: {found['rate']:.0f}/s, {found['peak_mb']:.0f} MB", file=sys.stderr, flush=True)
    return found


# The cost around the work


def seconds(
    command: list[str], cwd: Path, rounds: int = ROUNDS, refused: bool = False
) -> list[float]:
    """How long a command takes, each time; it ends with exit status 0, or 2 if it is `refused`."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True)
        if done.returncode != (2 if refused else 0):
            raise AssertionError(done.stderr)
        times.append(time.perf_counter() - begin)
    print(" ".join(command), [round(t, 2) for t in times], file=sys.stderr, flush=True)
    return times


def around_the_work() -> Iterator[tuple[str, list[float]]]:
    """Rows of name and seconds: DVC with nothing to do, start-up, a dry run both ways."""
    with tempfile.TemporaryDirectory() as name:
        copy, empty = Path(name) / "copy", Path(name) / "empty"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
        params = copy / "params.yaml"
        text = params.read_text().replace("source: mnist ", "source: digits ")
        params.write_text(text.replace("dry_run: false", "dry_run: true"))
        with_dvc, bare = dry_runs(copy)
        yield "dry run of the four stages, `dvc repro`", with_dvc
        yield "the same as bare Python", bare
        yield "what DVC adds, round by round", [a - b for a, b in zip(with_dvc, bare, strict=True)]
        seconds(["dvc", "repro"], copy, 1)  # the last dry run was without DVC
        yield "`dvc repro` with nothing to do", seconds(["dvc", "repro"], copy)
        empty.mkdir()
        for words in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
            subprocess.run(words, cwd=empty, check=True)
        (empty / "dvc.yaml").write_text("stages: {a: {cmd: touch b, outs: [b]}}\n")
        seconds(["dvc", "repro"], empty, 1)
        yield "the same with one stage, DVC's floor", seconds(["dvc", "repro"], empty)
        # A stage is refused, or finds no data, once it has imported everything.
        (empty / "params.yaml").write_text(text.replace("source: digits", "source: none"))
        run = ["env", f"PYTHONPATH={ROOT / 'src'}", "python", "-m", "mnist_pipeline"]
        for stage in STAGES:
            yield f"start and end of {stage}", seconds([*run, stage], empty, refused=True)


def dry_runs(copy: Path) -> tuple[list[float], list[float]]:
    """Whole dry runs, each from nothing: with DVC and without, in turns."""
    commands = [["env", "PYTHONPATH=src", "python", "-m", "mnist_pipeline", s] for s in STAGES]
    with_dvc, bare = [], []
    for _ in range(ROUNDS):
        for contestant, times in (([["dvc", "repro"]], with_dvc), (commands, bare)):
            for path in ("dvc.lock", ".dvc/cache", ".dvc/tmp", "data/MNIST", "models"):
                target = copy / path
                shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            times.append(sum(seconds(command, copy, 1)[0] for command in contestant))
    return with_dvc, bare


# The table


def spread(values: list[float], digits: int = 0) -> str:
    """Median (least to greatest)."""
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def table() -> Iterator[str]:
    """All measurements, as lines of Markdown."""
    rounds = [{name: measure(name) for name in CONTESTANTS} for _ in range(ROUNDS)]
    rates = {name: [each[name]["rate"] for each in rounds] for name in CONTESTANTS}
    memory = {name: [each[name]["peak_mb"] for each in rounds] for name in CONTESTANTS}
    yield f"{runtime.processor()}, {cpu_count()} cores; torch {torch.__version__};"
    yield f"Python {platform.python_version()}; {ROUNDS} rounds; median (least to greatest)."
    yield ""
    yield "| | images a second | ratio to classic, round by round | peak MB |"
    yield "|---|---|---|---|"
    for name in STEPPED | WHOLE:
        kind = name.replace(",", "").split()[1]
        rival = f"classic {kind}" + (" beside a busy core" if "busy" in name else "")
        pairs = zip(rates[name], rates[rival], strict=True)
        ratio = spread([mine / theirs for mine, theirs in pairs], 2)
        peak = "" if name in WHOLE else f"{statistics.median(memory[name]):,.0f}"
        yield f"| {name} | {spread(rates[name])} | {ratio} | {peak} |"
    yield ""
    yield f"Whole: processes from start to end, {EPOCHS * IMAGES:,} images and the test."
    yield "\n| the cost around the work | seconds |\n|---|---|"
    for row, times in around_the_work():
        yield f"| {row} | {spread(times, 2)} |"


def main() -> None:
    if len(sys.argv) > 1:
        rate = CONTESTANTS[sys.argv[1]]()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # MB; on macOS kB
        print(json.dumps({"rate": rate, "peak_mb": peak}))
        return
    lines = []
    for line in table():
        print(line, flush=True)
        lines.append(line)
    TABLE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
