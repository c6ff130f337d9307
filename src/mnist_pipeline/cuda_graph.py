"""A part's gradient as a CUDA graph: captured once, then replayed by one call.

Its kernels are small. Launched one by one, they take the host longer than the GPU.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from mnist_pipeline.batches import Part


class CapturedGradient:
    """A function that computes a part's gradient, with a graph for each size of part and batch."""

    def __init__(self, compute: Callable[[Part, int], list[Tensor]]) -> None:
        """`compute` takes a part that lies on the GPU, and the number of images of its batch."""
        self.compute = compute
        self.graphs: dict[tuple[int, int], Graph] = {}

    def __call__(self, part: Part, total: int) -> list[Tensor]:
        """What `compute` returns."""
        size = len(part[0]), total
        if size not in self.graphs:
            self.graphs[size] = Graph(self.compute, part, total)
        return self.graphs[size].replay(part)


class Graph:
    """The work on parts of one size."""

    def __init__(
        self, compute: Callable[[Part, int], list[Tensor]], part: Part, total: int
    ) -> None:
        images, labels, _ = part
        self.part = images.clone(), labels.clone(), Generator(images.device)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.part[2])
        compute(self.part, total)  # once outside the graph: cuBLAS and cuDNN set themselves up
        with torch.cuda.device(images.device), torch.cuda.graph(self.graph):
            self.result = compute(self.part, total)
        # torch before 2.13 writes a seed when it captures, on another stream: replay's comes after.
        torch.cuda.synchronize(images.device)

    def replay(self, part: Part) -> list[Tensor]:
        """The same work on another part."""
        images, labels, dropout = self.part
        images.copy_(part[0])
        labels.copy_(part[1])
        dropout.manual_seed(part[2].initial_seed())
        self.graph.replay()
        return [tensor.clone() for tensor in self.result]  # the next replay overwrites it
