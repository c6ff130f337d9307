"""The losses of the first 50 steps, to the last bit, on the platforms where they were recorded.

A change that should not alter numbers proves it here. One that should: python tests/test_golden.py
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from mnist_pipeline import digits, runtime, train
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.mnist_files import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.stage import write_atomically

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS, THREADS = 50, 2
PLATFORM = ("platform", "processor", "cpu_capability", "torch")


def losses(folder: Path) -> list[float]:
    """Train on the digits as the stage does, for STEPS steps; the loss of each."""
    for path in (TRAIN_IMAGES, TRAIN_LABELS):
        write_atomically(folder / path.name, digits.idx_files()[path.name])
    params = train.load("train", train.TrainParams, Path(__file__).parents[1] / "params.yaml")
    version = torch.__version__.split("+")[0]
    device = runtime.start(runtime.RuntimeParams(device="cpu", threads=THREADS, torch=version))
    pairs = read_pairs(folder / TRAIN_IMAGES.name, folder / TRAIN_LABELS.name)
    net, optimizer, *_ = train.start_training(params, device)
    found: list[float] = []
    number = 0
    while len(found) < STEPS:
        number += 1
        order = train.start_epoch(params.seed, number, len(pairs.labels))
        for batch in order.split(params.batch_size)[: STEPS - len(found)]:
            epoch = train.Epoch(number, (batch,), interval=1000)
            autocast = train.start_autocast(device, "float32")
            found.append(train.train_epoch(net, optimizer, pairs, epoch, autocast)["train_loss"])
    return found


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
