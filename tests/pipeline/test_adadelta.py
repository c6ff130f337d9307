"""Adadelta in one pass."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import Adadelta

from mnist_pipeline.adadelta import FusedAdadelta, update


@pytest.mark.parametrize("frozen", [False, True])
def test_steps_are_pytorchs(frozen):
    """Weights after ten steps are those of torch's Adadelta, to rounding, in any memory format.

    A parameter without a gradient stays as it is.
    """
    torch.manual_seed(1)
    mine = nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    theirs = nn.Conv2d(3, 5, 3)
    theirs.load_state_dict(mine.state_dict())
    optimizers = FusedAdadelta(mine.parameters(), lr=0.7), Adadelta(theirs.parameters(), lr=0.7)
    for _ in range(10):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            one.grad = other.grad = torch.randn(other.shape)
        mine.bias.grad = theirs.bias.grad = None if frozen else mine.bias.grad
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_every_operation_is_rounded():
    """Compiled, a step has the bits of NumPy's single operations: nothing is fused."""
    random = np.random.default_rng(1)
    rates = tuple(map(np.float32, (0.7, 0.9, 1 - 0.9, 1e-6)))
    gradient, *others = (np.abs(random.standard_normal(1000, np.float32)) for _ in range(4))
    compiled, plain = ([each.copy() for each in others] for _ in range(2))
    for function, (parameter, *averages) in ((update, compiled), (update.py_func, plain)):
        function(parameter, gradient, *averages, rates)
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one, other)
