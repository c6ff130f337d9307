"""make matrix: where equal runs give equal bytes, measured on the digits.

Each cell is a run of the stages train and evaluate in fresh processes, whose outputs are compared
with those of the first run of the same arithmetic. The table goes into docs/reproducibility.md.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path

from ruamel.yaml import YAML

from mnist_pipeline import digits
from mnist_pipeline.files import write_atomically
from mnist_pipeline.leash import leashed
from mnist_pipeline.mnist import RAW

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reproducibility.md"
BEGIN, END = "<!-- matrix: make matrix -->\n", "<!-- end of matrix -->\n"
EPOCHS = 2
OUTPUTS = (
    "models/weights.safetensors",
    *(f"metrics/{name}" for name in ("metrics.json", "errors.csv", "history.csv")),
    "metrics/environment.json",
    "metrics/misclassified.png",
)
FOREIGN = {  # variables that a caller may have set
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "SSE4_2",
    "OMP_NUM_THREADS": "3",
}
PORTABLE = {"arithmetic": "portable", "precision": "float32"}
NATIVE = {"arithmetic": "native", "precision": "float32"}
BFLOAT16 = {"arithmetic": "native", "precision": "bfloat16"}
ROWS = [
    *((PORTABLE, threads, processes) for threads in (1, 2, 3, 4) for processes in (1, 2, 4)),
    *((kind, *count) for kind in (NATIVE, BFLOAT16) for count in ((1, 1), (4, 1), (2, 2))),
]


def set_params(folder: Path, row: tuple[dict[str, str], int, int], epochs: int = EPOCHS) -> None:
    """Write this checkout's params.yaml, changed for a row."""
    (kind, threads, processes), yaml = row, YAML()
    tree = yaml.load(ROOT / "params.yaml")
    tree["runtime"]["arithmetic"] = kind["arithmetic"]
    tree["train"] |= {"precision": kind["precision"], "epochs": epochs}
    tree["machine"] |= {"threads": threads, "processes": processes}
    yaml.dump(tree, folder / "params.yaml")


def start(folder: Path, stage: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A stage in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline", stage],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(folder: Path, **environment: str) -> str:
    """Train and evaluate; returns a digest of what they wrote."""
    for stage in ("train", "evaluate"):
        with start(folder, stage, environment) as process:
            process.communicate()
        if process.returncode != 0:
            sys.exit(f"{stage} failed in {folder}")
    content = b"".join((folder / name).read_bytes() for name in OUTPUTS)
    return hashlib.sha256(content).hexdigest()


@contextmanager
def a_busy_core() -> Iterator[None]:
    """Another process that computes without end."""
    with subprocess.Popen(leashed(sys.executable, "-c", "while True: pass")) as other:
        try:
            yield
        finally:
            other.kill()


def beside_another(folder: Path, row: tuple[dict[str, str], int, int]) -> str:
    """One core is busy with something else."""
    set_params(folder, row)
    with a_busy_core():
        return run(folder)


def with_variables(folder: Path, row: tuple[dict[str, str], int, int]) -> str:
    """The caller's environment asks the libraries for other instructions."""
    set_params(folder, row)
    return run(folder, **FOREIGN)


def killed(folder: Path, row: tuple[dict[str, str], int, int]) -> str:
    """SIGKILL in the second epoch, then a run."""
    set_params(folder, row)
    with start(folder, "train", {}) as process:
        for line in process.stdout or ():
            if line.startswith("Train Epoch: 2"):
                process.send_signal(signal.SIGKILL)
    return run(folder)


def extended(folder: Path, row: tuple[dict[str, str], int, int]) -> str:
    """Fewer epochs with one thread and one process first, then all."""
    set_params(folder, (row[0], 1, 1), EPOCHS - 1)
    run(folder)
    shutil.rmtree(folder / "models")
    set_params(folder, row)
    return run(folder)


def plain(folder: Path, row: tuple[dict[str, str], int, int]) -> str:
    """Nothing special."""
    set_params(folder, row)
    return run(folder)


COLUMNS: dict[str, Callable[[Path, tuple[dict[str, str], int, int]], str]] = {
    "undisturbed": plain,
    "one core busy": beside_another,
    "caller's variables": with_variables,
    f"killed in epoch {EPOCHS}": killed,
    f"{EPOCHS - 1} epoch, extended to {EPOCHS}": extended,
}


def digest(cell: tuple[tuple[dict[str, str], int, int], str]) -> str:
    """A digest of what a cell's run wrote, in a folder of its own."""
    row, column = cell
    with tempfile.TemporaryDirectory() as folder:
        for name, content in digits.idx_files().items():
            write_atomically(Path(folder) / RAW / name, content)
        (Path(folder) / ".dvc").mkdir()  # so that train keeps its states
        return COLUMNS[column](Path(folder), row)


def main() -> None:
    lines = [f"| arithmetic | threads | processes | {' | '.join(COLUMNS)} |"]
    lines.append("|---" * (3 + len(COLUMNS)) + "|")
    first: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:  # two cells at a time
        found = pool.map(digest, product(ROWS, COLUMNS))
        for row in ROWS:
            name, cells = ", ".join(row[0].values()), []
            for _ in COLUMNS:
                same = next(found)
                cells.append("equal" if same == first.setdefault(name, same) else "**differ**")
            lines.append(f"| {name} | {row[1]} | {row[2]} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
