"""Adadelta in one pass through memory on a CPU. torch takes eleven: it fuses other optimisers."""

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Adadelta

AVERAGES = "square_avg", "acc_delta"  # torch's names, in the state of a parameter


class FusedAdadelta(Adadelta):
    """torch.optim.Adadelta without weight decay; on an accelerator, torch's own code runs."""

    # As torch decorates these, the first call would load its compiler, which takes seconds.
    add_param_group = Adadelta.add_param_group.__wrapped__  # type: ignore[attr-defined]
    state_dict = Adadelta.state_dict.__wrapped__  # type: ignore[attr-defined]
    load_state_dict = Adadelta.load_state_dict.__wrapped__  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move each parameter by its gradient."""
        if self.param_groups[0]["params"][0].device.type != "cpu":
            super().step()
            return
        for group in self.param_groups:
            rho = group["rho"]
            rates = group["lr"], rho, 1 - rho, group["eps"]
            for parameter in group["params"]:
                if (gradient := parameter.grad) is None:  # a frozen one
                    continue
                state = self.state[parameter]
                if not state:
                    state |= {name: torch.zeros_like(parameter) for name in AVERAGES}
                    state["step"] = torch.tensor(0.0)  # load_state_dict asks for it
                state["step"] += 1
                if gradient.stride() != parameter.stride():
                    gradient = torch.empty_like(parameter).copy_(gradient)
                weights = flat(parameter)
                squares, changes = (flat(state[name]) for name in AVERAGES)
                rounded = tuple(map(weights.dtype.type, rates))
                update(weights, flat(gradient), squares, changes, rounded)


def flat(tensor: Tensor) -> NDArray[Any]:
    """A dense tensor's elements, as they lie in memory."""
    return tensor.detach().as_strided((tensor.numel(),), (1,)).numpy()


@numba.njit(nogil=True, cache=True, error_model="numpy")
def update(
    parameter: NDArray[Any],
    gradient: NDArray[Any],
    squares: NDArray[Any],
    changes: NDArray[Any],
    rates: tuple[np.float32, ...],
) -> None:
    """One step of Adadelta (Zeiler, arXiv:1212.5701, algorithm 1), on flat arrays.

    `squares` and `changes`: averages of the squared gradients and of the squared changes. `rates`:
    the learning rate, rho, 1 - rho, and eps. Each operation is rounded by itself: every processor
    gives the same bits.
    """
    lr, rho, rest, eps = rates
    for i in range(parameter.size):
        g = gradient[i]
        square = rho * squares[i] + rest * (g * g)
        change = np.sqrt(changes[i] + eps) / np.sqrt(square + eps) * g
        parameter[i] -= lr * change
        squares[i] = square
        changes[i] = rho * changes[i] + rest * (change * change)
