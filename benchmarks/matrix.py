"""make matrix: where equal runs give equal bytes, measured on the digits.

Each cell is a run of the stages train and evaluate in fresh processes, compared with the first
such run: the weights, and all metrics. The table goes into docs/reproducibility.md.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import safetensors.torch
from ruamel.yaml import YAML

from mnist_pipeline import digits
from mnist_pipeline.files import write_atomically
from mnist_pipeline.mnist import RAW

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reproducibility.md"
BEGIN, END = "<!-- matrix: make matrix -->\n", "<!-- end of matrix -->\n"
EPOCHS = 2
METRICS = ("metrics.json", "errors.csv", "history.csv", "misclassified.png")
PRECISIONS = ("float32", "bfloat16")


def workspace(folder: Path, precision: str, threads: int = 0, epochs: int = EPOCHS) -> Path:
    """A folder for the stages to run in, with the digits as data."""
    for name, content in digits.idx_files().items():
        write_atomically(folder / RAW / name, content)
    (folder / ".dvc").mkdir()  # so that train keeps its states
    set_params(
        folder, train={"precision": precision, "epochs": epochs}, runtime={"threads": threads}
    )
    return folder


def set_params(folder: Path, **sections: dict[str, object]) -> None:
    """params.yaml of this checkout, with changes."""
    yaml = YAML()
    tree = yaml.load(ROOT / "params.yaml")
    for section, values in sections.items():
        tree[section].update(values)
    yaml.dump(tree, folder / "params.yaml")


def start(folder: Path, stage: str, **environment: str) -> subprocess.Popen[str]:
    """A stage in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "mnist_pipeline", stage],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def run(folder: Path, **environment: str) -> tuple[str, str]:
    """Train and evaluate; digests of the weights and of the metrics."""
    for stage in ("train", "evaluate"):
        with start(folder, stage, **environment) as process:
            process.communicate()
        if process.returncode != 0:
            sys.exit(f"{stage} failed in {folder}")
    tensors = safetensors.torch.load_file(folder / "models/weights.safetensors")
    metrics = b"".join((folder / "metrics" / name).read_bytes() for name in METRICS)
    contents = (safetensors.torch.save(tensors), metrics)
    return tuple(hashlib.sha256(content).hexdigest() for content in contents)


def killed_and_resumed(folder: Path, precision: str) -> tuple[str, str]:
    """SIGKILL in the second epoch, then a run."""
    workspace(folder, precision)
    with start(folder, "train") as process:
        for line in process.stdout:
            if line.startswith("Train Epoch: 2"):
                process.send_signal(signal.SIGKILL)
    return run(folder)


def extended(folder: Path, precision: str) -> tuple[str, str]:
    """Fewer epochs first, then all."""
    run(workspace(folder, precision, epochs=EPOCHS - 1))
    shutil.rmtree(folder / "models")
    set_params(folder, train={"precision": precision, "epochs": EPOCHS})
    return run(folder)


def fresh(folder: Path, precision: str, threads: int = 0, **environment: str) -> tuple[str, str]:
    """Nothing special: a run."""
    return run(workspace(folder, precision, threads), **environment)


ROWS: dict[str, Callable[[Path, str], tuple[str, str]]] = {
    "fresh process 1 of 5, the first run itself": fresh,
    **{f"fresh process {number} of 5": fresh for number in range(2, 6)},
    "SIGKILL in epoch 2, resumed": killed_and_resumed,
    f"{EPOCHS - 1} epoch, extended to {EPOCHS}": extended,
    "1 thread instead of 2": partial(fresh, threads=1),
    "PyTorch's own kernels without AVX2 (`ATEN_CPU_CAPABILITY=default`)": partial(
        fresh, ATEN_CPU_CAPABILITY="default"
    ),
    "convolutions without AVX2 (`ONEDNN_MAX_CPU_ISA=SSE41`)": partial(
        fresh, ONEDNN_MAX_CPU_ISA="SSE41"
    ),
}


def main() -> None:
    lines = ["| compared with the first run | weights, float32 | metrics, float32 |"]
    lines[0] += " weights, bfloat16 | metrics, bfloat16 |"
    lines.append("|---|---|---|---|---|")
    first: dict[str, tuple[str, str]] = {}
    for name, measure in ROWS.items():
        cells = []
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(Path(folder), precision)
            expected = first.setdefault(precision, found)
            cells += [
                "equal" if a == b else "**differ**" for a, b in zip(found, expected, strict=True)
            ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
