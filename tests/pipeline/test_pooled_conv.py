"""The convolution with max-pooling, whose gradients leave out zeros."""

import numpy as np
import torch
import torch.nn.functional as F

from mnist_pipeline.pooled_conv import PooledConv2d, add_gradients


def test_gradients_are_pytorchs():
    """Result and gradients are those of PyTorch's own operations, to rounding."""
    torch.manual_seed(1)
    layer = PooledConv2d(3, 5, 3).double()
    x = torch.randn(4, 3, 11, 12, dtype=torch.float64, requires_grad=True)
    pooled = layer(x)
    expected = F.max_pool2d(F.conv2d(x, layer.weight, layer.bias), 2)
    given = torch.randn_like(pooled) * (torch.rand_like(pooled) < 0.2)
    inputs = (x, layer.weight, layer.bias)
    mine, theirs = (torch.autograd.grad(each, inputs, given) for each in (pooled, expected))
    assert torch.equal(pooled, expected)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_every_product_and_sum_is_rounded():
    """Compiled, float32 gradients have the bits of NumPy's single operations: nothing is fused."""
    random = np.random.default_rng(1)
    gradient = random.standard_normal((2, 4, 3), np.float32)
    at = random.integers(0, 16, (2, 4, 3))
    operands = [random.standard_normal(shape, np.float32) for shape in ((2, 6, 48), (3, 3, 24))]
    compiled, plain = (tuple(map(np.zeros_like, operands)) for _ in range(2))
    add_gradients((gradient, at), tuple(operands), compiled)
    add_gradients.py_func((gradient, at), tuple(operands), plain)
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one, other)
