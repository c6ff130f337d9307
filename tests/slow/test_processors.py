"""Portable arithmetic on processors that are not at hand, as qemu imitates them.

qemu computes every instruction as IEEE 754 asks, and shows the libraries another name, other
caches and no AVX-512. What an instruction of a real processor only estimates is exact in qemu.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_pipeline.arithmetic import PORTABLE, RuntimeParams

ROOT = Path(__file__).parents[2]


def train_a_part() -> None:
    """Two steps on a part of the committed size; prints the processor, then a hash of each sum."""
    os.environ |= PORTABLE  # before torch loads
    import torch  # noqa: PLC0415

    from mnist_pipeline import model, runtime, train  # noqa: PLC0415
    from mnist_pipeline.parallel import Workers  # noqa: PLC0415
    from mnist_pipeline.params import load_params  # noqa: PLC0415

    params = load_params("train", train.TrainParams, ROOT / "params.yaml")
    version = torch.__version__.split("+")[0]
    device = runtime.start(RuntimeParams(device="cpu", arithmetic="portable", torch=version))
    training = train.Training(params, device, Workers(threads=1))
    count = params.batch_size // params.micro_batches
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    print(torch.cpu.get_capabilities()["cpu_name"])
    for seed in (1, 2):
        training.net.train()
        dropout = torch.Generator().manual_seed(seed)
        loss, *gradients = training.compute((images, labels, dropout), count)
        for parameter, gradient in zip(training.net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        training.optimizer.step()
        answers = model.predict(training.net, images, count, training.workers)
        for tensor in (loss, *gradients, *training.net.parameters(), answers):
            print(hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest())


def printed(*emulator: str) -> list[str]:
    """What train_a_part prints on a processor."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [*emulator, sys.executable, __file__]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (qemu-user)")
@pytest.mark.parametrize(
    ("model", "name"), [("EPYC-Rome", "AMD EPYC-Rome"), ("Haswell", "Intel Core")]
)
def test_other_processors_give_the_same_bits(model, name):
    """Loss, gradients, weights and answers of two steps are those of the processor at hand."""
    found = printed("qemu-x86_64", "-cpu", model)
    assert found[0] == name
    assert found[1:] == printed()[1:]


if __name__ == "__main__":
    train_a_part()
