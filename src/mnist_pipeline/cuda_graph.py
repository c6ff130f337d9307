"""A part's work as a CUDA graph: captured once, then replayed by one call.

A part is about 70 small kernels. Launched one by one, they take the host longer than the GPU.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor


class CapturedPart:
    """Computes the gradient of a part; every part has as many images as the first one."""

    def __init__(
        self, compute: Callable[[Tensor, Tensor, Generator], list[Tensor]], part: tuple[Tensor, ...]
    ) -> None:
        """`compute` takes images, labels and the dropout's generator, all on the GPU."""
        self.images, self.labels = (tensor.clone() for tensor in part)
        self.dropout = Generator(self.images.device)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.dropout)
        compute(self.images, self.labels, self.dropout)  # the libraries set themselves up
        with torch.cuda.device(self.images.device), torch.cuda.graph(self.graph):
            self.gradients = compute(self.images, self.labels, self.dropout)
        # torch before 2.13 writes a seed when it captures, on another stream: replay's comes after.
        torch.cuda.synchronize(self.images.device)

    def replay(self, images: Tensor, labels: Tensor, seed: int) -> list[Tensor]:
        """The same work on other images, with a dropout of their own."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.dropout.manual_seed(seed)
        self.graph.replay()
        return [gradient.clone() for gradient in self.gradients]  # the next replay overwrites them
