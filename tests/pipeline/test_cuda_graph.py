"""A captured part: the same bits as without a CUDA graph."""

import pytest
import torch
from test_train import PARAMS

from mnist_pipeline.parallel import Workers
from mnist_pipeline.train import Training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replay_gives_the_bits_of_kernels_launched_one_by_one(monkeypatch, precision):
    """For new images, labels, dropout and weights, and after a part of another size."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device = torch.device("cuda")
    params = PARAMS.model_copy(update={"precision": precision})
    run = Training(params, device, Workers(1))
    run.working.train()
    for seed, size in enumerate((16, 16, 12, 16)):
        images = torch.randint(256, (size, 28, 28), dtype=torch.uint8, device=device)
        labels = torch.randint(10, (size,), device=device)
        dropout = torch.Generator(device).manual_seed(seed)
        found = run.gradient((images, labels, dropout), total=64)
        expected = run.compute((images, labels, dropout), total=64)
        assert all(map(torch.equal, found, expected))
        with torch.no_grad():
            torch._foreach_add_(list(run.working.parameters()), 0.01)
