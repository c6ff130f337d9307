"""The losses of the first 50 steps, to the last bit, on the platforms where they were recorded.

A change that should not alter numbers proves it here. One that should records them anew:
python tests/pipeline/test_golden.py
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mnist_pipeline import digits, runtime, train
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import write_atomically
from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.params import load_params

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS, THREADS = 50, 2
PLATFORM = ("platform", "processor", "cpu_capability", "torch")


def losses(folder: Path) -> list[float]:
    """Train on the digits as the stage does, for STEPS steps; the loss of each."""
    for path in (TRAIN_IMAGES, TRAIN_LABELS):
        write_atomically(folder / path.name, digits.idx_files()[path.name])
    params = load_params("train", train.TrainParams, Path(__file__).parents[2] / "params.yaml")
    version = torch.__version__.split("+")[0]
    device = runtime.start(runtime.RuntimeParams(device="cpu", threads=THREADS, torch=version))
    images, labels = read_pairs(folder / TRAIN_IMAGES.name, folder / TRAIN_LABELS.name)
    training = train.Training(params, device)
    found: list[float] = []
    step = training.step

    def recorded(images: Tensor, labels: Tensor) -> Tensor:
        found.append(step(images, labels).item())
        return torch.tensor(found[-1])

    training.step = recorded
    for epoch in (1, 2, 3):
        training.train_epoch(epoch, images, labels, torch.arange(len(labels)), interval=1000)
    return found[:STEPS]


def platform() -> str:
    """What the last bits depend on."""
    record = runtime.environment(torch.device("cpu"))
    return ", ".join(str(record[name]) for name in PLATFORM)


def test_losses_are_the_recorded_ones(tmp_path):
    """Equal in every bit on a recorded platform; elsewhere the first ones agree to rounding."""
    threads = torch.get_num_threads()
    found = losses(tmp_path)
    torch.set_num_threads(threads)
    golden = json.loads(GOLDEN.read_text())
    assert len(found) == STEPS
    if platform() in golden:
        assert found == golden[platform()]
    else:
        for recorded in golden.values():
            assert found[:5] == pytest.approx(recorded[:5], rel=1e-3)


if __name__ == "__main__":
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        golden[platform()] = losses(Path(folder))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN}: {platform()}\n")
