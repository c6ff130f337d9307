"""Layers whose backward pass on a CPU leaves out what is zero.

The gradient of their result is zero where max-pooling, ReLU or dropout cuts an element off. On
MNIST, 12 of 100 elements of the convolution's result are left with new weights, and 4 with trained
ones; of the linear layer's 25 and 15. PyTorch would multiply the zeros, too.

Each product and each sum is rounded by itself, in one order: every processor gives the same bits.
"""

from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

BLOCK = 1024  # inputs of a linear layer; their weights stay in a processor's cache

Array = NDArray[Any]


class PooledConv2d(nn.Conv2d):
    """nn.Conv2d with stride 1 and no padding, then nn.MaxPool2d(2)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K, h, w), half as high and wide as the convolution's result."""
        if x.device.type == "cpu" and torch.is_grad_enabled():
            pooled: Tensor = _ConvolveAndPool.apply(x, self.weight, self.bias)
            return pooled
        return F.max_pool2d(super().forward(x), 2)


class Linear(nn.Linear):
    """nn.Linear; bfloat16, for which some processors have products, is left to PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs)."""
        if x.device.type == "cpu" and torch.is_grad_enabled() and x.dtype != torch.bfloat16:
            result: Tensor = _Multiply.apply(x, self.weight, self.bias)
            return result
        return super().forward(x)


class _ConvolveAndPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pooled, at = F.max_pool2d(F.conv2d(x, weight, bias), 2, return_indices=True)
        ctx.save_for_backward(x, weight, at)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, at = ctx.saved_tensors  # (N, C, H, W), (K, C, size, size), (N, K, h, w)
        x, weight = (as_float(each).permute(0, 2, 3, 1).contiguous() for each in (x, weight))
        x_sum, weight_sum = torch.empty_like(x), torch.empty_like(weight)
        pooled, at = as_float(gradient).flatten(2).contiguous(), at.permute(0, 2, 3, 1)
        rows = (each.flatten(2).numpy() for each in (x, weight, x_sum, weight_sum))
        sum_convolution(pooled.numpy(), at.flatten(1, 2).numpy(), *rows)
        bias_sum = gradient.sum((0, 2, 3))
        return x_sum.permute(0, 3, 1, 2), weight_sum.permute(0, 3, 1, 2), bias_sum


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        x_sum, weight_sum = torch.empty_like(x), torch.empty_like(weight)
        arrays = (each.numpy() for each in (gradient.contiguous(), x, weight, x_sum, weight_sum))
        sum_product(*arrays)
        return x_sum, weight_sum, gradient.sum(0)


def as_float(tensor: Tensor) -> Tensor:
    """The tensor; bfloat16, which NumPy lacks, as float32."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


@numba.njit(nogil=True, cache=True)
def sum_convolution(  # noqa: PLR0913, PLR0917 (numba compiles functions of arrays)
    gradient: Array, at: Array, x: Array, weight: Array, x_sum: Array, weight_sum: Array
) -> None:
    """Write the gradients of a convolution's input and weights to `x_sum` and `weight_sum`.

    Shapes: `gradient` after pooling (N, K, h * w); `at`, where each element was before it,
    (N, h * w, K); input (N, H, W * C); weights (K, size, size * C).
    """
    filters, size, span = weight.shape
    channels = span // size
    width = x.shape[2] // channels - size + 1
    weight_sum[:] = 0
    for n in range(len(x)):
        pixels, pixels_sum = x[n].ravel(), x_sum[n].ravel()
        pixels_sum[:] = 0
        for k in range(filters):
            for place in range(gradient.shape[2]):
                g = gradient[n, k, place]
                if g != 0:
                    row, column = divmod(at[n, place, k], width)
                    for r in range(size):  # a row of the filter on its pixels, all channels
                        w, w_sum = weight[k, r], weight_sum[k, r]
                        # Unsigned: a negative index would count from the end, which takes time.
                        first = np.uint64((row + r) * x.shape[2] + column * channels)
                        for e in range(np.uint64(span)):
                            pixels_sum[first + e] += g * w[e]
                            w_sum[e] += g * pixels[first + e]


@numba.njit(nogil=True, cache=True)
def sum_product(gradient: Array, x: Array, weight: Array, x_sum: Array, weight_sum: Array) -> None:
    """Write the gradients of a linear layer's input and weights to `x_sum` and `weight_sum`.

    Shapes: `gradient` of the result (N, outputs); input (N, inputs); weights (outputs, inputs).
    """
    x_sum[:] = 0
    for start in range(0, x.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        for k in range(len(weight)):
            w, w_sum = weight[k, block], weight_sum[k, block]
            w_sum[:] = 0
            for n in range(len(x)):
                g = gradient[n, k]
                if g != 0:
                    row, row_sum = x[n, block], x_sum[n, block]
                    for e in range(row.size):
                        row_sum[e] += g * w[e]
                        w_sum[e] += g * row[e]
