"""The losses of the first 50 steps, to the last bit, on any x86-64 processor with AVX2.

A change that should not alter numbers proves it here. One that should records them anew:
PYTHONPATH=src python tests/pipeline/test_golden.py > tests/pipeline/golden_losses.json
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mnist_pipeline.arithmetic import PORTABLE, RuntimeParams

GOLDEN = Path(__file__).with_name("golden_losses.json")
STEPS = 50
IMITATED = 2  # steps under qemu, which take minutes


def steps(folder: Path, count: int) -> list[str]:
    """Train on the digits as the stage does: each step's loss, and a hash of the weights."""
    os.environ |= PORTABLE  # before torch loads
    import torch  # noqa: PLC0415

    from mnist_pipeline import digits, runtime, train  # noqa: PLC0415
    from mnist_pipeline.batches import shuffle  # noqa: PLC0415
    from mnist_pipeline.dataset import read_pairs  # noqa: PLC0415
    from mnist_pipeline.files import load_params  # noqa: PLC0415
    from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS  # noqa: PLC0415
    from mnist_pipeline.parallel import Workers  # noqa: PLC0415

    paths = [folder / path.name for path in (TRAIN_IMAGES, TRAIN_LABELS)]
    files = digits.idx_files()
    for path in paths:
        path.write_bytes(files[path.name])
    images, labels = map(torch.from_numpy, read_pairs(*paths))
    known = {"seed": 1, "micro_batches": 4, "lr": 1.0, "precision": "float32"}
    params = load_params("train", train.TrainParams, Path(__file__).parents[2])
    version = torch.__version__.split("+")[0]
    device = runtime.start(RuntimeParams(device="cpu", arithmetic="portable", torch=version))
    training = train.Training(params.model_copy(update=known), device, Workers(threads=3))
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"
    training.net.train()
    batches = [
        (epoch, number, batch)
        for epoch in (1, 2, 3)
        for number, batch in enumerate(shuffle(torch.arange(len(labels)), 1, epoch, 64))
    ]
    found = []
    for epoch, number, batch in batches[:count]:
        loss = training.step(images[batch], labels[batch], (epoch, number)).item()
        weights = b"".join(each.detach().numpy().tobytes() for each in training.net.parameters())
        found.append(f"{loss!r} {hashlib.sha256(weights).hexdigest()[:16]}")
    return found


@pytest.mark.skipif(platform.machine() != "x86_64", reason="recorded on x86-64")
def test_losses_are_the_recorded_ones():
    """One list for all processors: a processor that disagrees is named."""
    from mnist_pipeline.runtime import processor  # noqa: PLC0415 (loads torch)

    done = subprocess.run([sys.executable, __file__], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == json.loads(GOLDEN.read_text()), processor()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (qemu-user)")
@pytest.mark.parametrize("model", ["EPYC-Rome", "Haswell"])
def test_processors_that_qemu_imitates_give_the_same_losses(model):
    """The libraries see another name, other caches and no AVX-512.

    qemu computes exactly what some instructions of a real processor only estimate.
    """
    command = ["qemu-x86_64", "-cpu", model, sys.executable, __file__, str(IMITATED)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == json.loads(GOLDEN.read_text())[:IMITATED]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(steps(Path(name), int([*sys.argv, STEPS][1])), indent=1))
