"""The layers whose gradients leave out zeros."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_pipeline.sparse_gradients import (
    BLOCK,
    Linear,
    PooledConv2d,
    sum_convolution,
    sum_product,
)


def convolve_and_pool(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What PooledConv2d does, by PyTorch's own operations."""
    return F.max_pool2d(F.conv2d(x, weight, bias), 2)


@pytest.mark.parametrize(
    ("layer", "shape", "plain"),
    [
        (PooledConv2d(3, 5, 3), (4, 3, 11, 12), convolve_and_pool),
        (Linear(BLOCK + 7, 5), (4, BLOCK + 7), F.linear),
    ],
)
def test_gradients_are_pytorchs(layer, shape, plain):
    """Result and gradients are those of PyTorch's own operations, to rounding."""
    torch.manual_seed(1)
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    result, expected = layer(x), plain(x, layer.weight, layer.bias)
    given = torch.randn_like(result) * (torch.rand_like(result) < 0.2)
    inputs = (x, layer.weight, layer.bias)
    mine, theirs = (torch.autograd.grad(each, inputs, given) for each in (result, expected))
    assert torch.equal(result, expected)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_every_product_and_sum_is_rounded():
    """Compiled, float32 gradients have the bits of NumPy's single operations: nothing is fused."""
    random = np.random.default_rng(1)

    def draw(*shapes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        return tuple(random.standard_normal(shape, np.float32) for shape in shapes)

    pooled = [*draw((2, 3, 4)), random.integers(0, 16, (2, 4, 3))]
    for function, gradient, operands in (
        (sum_convolution, pooled, draw((2, 6, 48), (3, 3, 24))),
        (sum_product, draw((4, 3)), draw((4, BLOCK + 7), (3, BLOCK + 7))),
    ):
        compiled, plain = (tuple(map(np.ones_like, operands)) for _ in range(2))
        function(*gradient, *operands, *compiled)
        function.py_func(*gradient, *operands, *plain)
        for one, other in zip(compiled, plain, strict=True):
            assert np.array_equal(one, other)
