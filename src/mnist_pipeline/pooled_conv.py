"""A convolution with max-pooling, whose backward pass on a CPU leaves out what is zero.

Of each pooled square only the largest element has a gradient, and it has none if ReLU or dropout
cuts it off. On MNIST, 4 of 100 elements are left. PyTorch would multiply the zeros, too.
"""

from typing import Any

import numba
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Pair = tuple[NDArray[Any], ...]


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


class _ConvolveAndPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        pooled, at = F.max_pool2d(F.conv2d(x, weight, bias), 2, return_indices=True)
        ctx.save_for_backward(x, weight, at)
        return pooled

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, at, g = map(channels_last, (*ctx.saved_tensors, gradient))
        sums = torch.zeros_like(x), torch.zeros_like(weight)
        add_gradients(
            tuple(tensor.flatten(1, 2).numpy() for tensor in (g, at)),
            tuple(tensor.flatten(2).numpy() for tensor in (x, weight)),
            tuple(tensor.flatten(2).numpy() for tensor in sums),
        )
        x_sum, weight_sum = (tensor.permute(0, 3, 1, 2) for tensor in sums)
        return x_sum, weight_sum, g.sum((0, 1, 2))


def channels_last(tensor: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C); bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.permute(0, 2, 3, 1).contiguous()
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


@numba.njit(nogil=True)
def add_gradients(pooled: Pair, operands: Pair, sums: Pair) -> None:
    """Add the gradients of a convolution's input and weights to `sums`.

    `pooled`: the gradient after pooling, and where each element was before it, (N, h * w, K).
    `operands` and `sums`: of the input, (N, H, W * C), and of the weights, (K, size, size * C).
    Each product and each sum is rounded by itself, in one order: every processor gives these bits.
    """
    (gradient, at), (x, weight), (x_sum, weight_sum) = pooled, operands, sums
    filters, size, span = weight.shape
    channels = span // size
    width = x.shape[2] // channels - size + 1
    for n in range(len(x)):
        for k in range(filters):
            for place in range(gradient.shape[1]):
                g = gradient[n, place, k]
                if g != 0:
                    row, column = divmod(at[n, place, k], width)
                    here = slice(column * channels, column * channels + span)
                    for r in range(size):  # a row of the filter on its pixels, all channels
                        pixels, pixels_sum = x[n, row + r, here], x_sum[n, row + r, here]
                        for e in range(span):
                            pixels_sum[e] += g * weight[k, r, e]
                        for e in range(span):
                            weight_sum[k, r, e] += g * pixels[e]
