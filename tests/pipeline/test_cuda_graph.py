"""A captured gradient: the same bits as without a CUDA graph."""

import pytest
import torch
from conftest import TRAIN

from mnist_pipeline import cuda_graph
from mnist_pipeline.parallel import Workers
from mnist_pipeline.train import Training, TrainParams

SIZES = ((16, 64), (16, 64), (12, 64), (16, 48))  # images of a part, and of its batch


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_replay_gives_the_bits_of_kernels_launched_one_by_one(monkeypatch, precision):
    """For new images, labels, dropout and weights, and after a part or a batch of another size."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    device = torch.device("cuda")
    params = TrainParams(**TRAIN | {"precision": precision})
    run = Training(params, device, Workers(1))
    run.working.train()
    for seed, (size, total) in enumerate(SIZES):
        images = torch.randint(256, (size, 28, 28), dtype=torch.uint8, device=device)
        labels = torch.randint(10, (size,), device=device)
        dropout = torch.Generator(device).manual_seed(seed)
        found = run.gradient((images, labels, dropout), total)
        expected = run.compute((images, labels, dropout), total)
        assert all(map(torch.equal, found, expected))
        with torch.no_grad():
            torch._foreach_add_(list(run.working.parameters()), 0.01)


def test_a_graph_is_for_one_size(monkeypatch):
    """Of a part and of its batch: the loss is divided by the latter. Without a GPU."""

    class Graph:
        def __init__(self, compute, part, total):
            self.size = len(part[0]), total

        def replay(self, part):
            return self.size

    monkeypatch.setattr(cuda_graph, "Graph", Graph)
    gradient = cuda_graph.CapturedGradient(None)
    for size, total in SIZES:
        assert gradient((torch.zeros(size), None, None), total) == (size, total)
    assert len(gradient.graphs) == 3
