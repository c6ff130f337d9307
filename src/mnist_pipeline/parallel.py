"""Threads and processes that share a step's work; their number changes no byte of the result.

The work comes in parts, each computed by one thread. Sums over parts follow one binary tree:
((a + b) + (c + d)). If one process computes a + b and another one c + d, they exchange these sums
and each finishes the tree. Which of two numbers comes first does not matter to their sum.
"""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, reduce
from typing import Any, Literal, TypeVar

import torch
from joblib import cpu_count
from pydantic import Field
from torch import Tensor, distributed

from mnist_pipeline.files import InputError, Record

GONE = "another process of this training is gone or does not answer"
SHARED = "MNIST_SHARED_MEMORY"  # names a file in memory, for processes that one process started
PowerOfTwo = Literal[1, 2, 4, 8, 16, 32, 64, 128, 256]
Item = TypeVar("Item")
Done = TypeVar("Done")


class MachineParams(Record):
    threads: int = Field(ge=0, le=1024, description="threads of all processes; 0 = all cores")
    processes: PowerOfTwo = Field(description="processes of a training; reruns nothing")

    def threads_on(self, device: torch.device, processes: int = 1) -> int:
        """Threads of each of so many processes; one on an accelerator, which is one device."""
        if device.type != "cpu":
            return 1
        return max(1, (self.threads or cpu_count()) // processes)


class Workers:
    """The threads of this process, and its place among the processes of the same training."""

    def __init__(self, threads: int, rank: int = 0, processes: int = 1) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)
        self.rank = rank
        self.processes = processes

    def map(self, work: Callable[[Item], Done], items: Iterable[Item]) -> list[Done]:
        """The results of the work on each item, which the threads share."""
        if self.threads == 1:
            return [work(item) for item in items]
        return list(self.pool.map(work, items))

    def own(self, parts: Sequence[Item]) -> Sequence[Item]:
        """This process's block of the parts."""
        each = len(parts) // self.processes
        return parts[self.rank * each : (self.rank + 1) * each]

    def add(self, parts: list[list[Tensor]]) -> list[Tensor]:
        """The sum over the parts of all processes; `parts` are this one's, each a list of tensors.

        Overwrites the parts. Raises InputError if another process is gone.
        """
        mine = add_by_tree(parts)
        share_memory = SHARED in os.environ and mine[0].device.type == "cpu"
        add_other = self.add_from_memory if share_memory else self.add_from_message
        distance = 1  # 0 trades with 1 and 2 with 3, then 0 with 2 and 1 with 3, and so on
        while distance < self.processes:
            add_other(self.rank ^ distance, mine)
            distance *= 2
        return mine

    def add_from_memory(self, other: int, mine: list[Tensor]) -> None:
        """Add another process's sum to this one's, while that process does the same."""
        size = sum(tensor.numel() for tensor in mine)
        widest = reduce(torch.promote_types, (tensor.dtype for tensor in mine))
        sums = shared_memory(self.processes * size, widest).split(size)
        torch._foreach_copy_(lay_out(sums[self.rank], mine), mine)
        reach(distributed.barrier)
        torch._foreach_add_(mine, lay_out(sums[other], mine))
        reach(distributed.barrier)  # before one of them is overwritten

    def add_from_message(self, other: int, mine: list[Tensor]) -> None:
        """The same between machines, or between GPUs."""
        sent = [tensor.contiguous() for tensor in mine]
        received = [torch.empty_like(tensor) for tensor in sent]
        operations = [distributed.P2POp(distributed.isend, tensor, other) for tensor in sent]
        operations += [distributed.P2POp(distributed.irecv, tensor, other) for tensor in received]
        for work in reach(distributed.batch_isend_irecv, operations):
            reach(work.wait)
        torch._foreach_add_(mine, received)

    def share(self, value: Any) -> Any:
        """Return the first process's value in every process."""
        values = [value]
        if self.processes > 1:
            reach(distributed.broadcast_object_list, values)
        return values[0]


def add_by_tree(parts: list[list[Tensor]]) -> list[Tensor]:
    """The sum of lists of tensors, taken pairwise; their number is a power of two."""
    while len(parts) > 1:
        for left, right in zip(parts[::2], parts[1::2], strict=True):
            torch._foreach_add_(left, right)
        parts = parts[::2]
    return parts[0]


@cache
def shared_memory(size: int, dtype: torch.dtype) -> Tensor:
    """So many elements that this process and others of this machine share."""
    return torch.from_file(os.environ[SHARED], shared=True, size=size, dtype=dtype)


def lay_out(memory: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Tensors of these shapes, one behind the other, in flat memory of as many elements."""
    pieces = memory.split([tensor.numel() for tensor in like])
    return [piece.view(tensor.shape) for piece, tensor in zip(pieces, like, strict=True)]


def reach(communicate: Callable[..., Any], *arguments: Any) -> Any:
    """Exchange something with the other processes; InputError if one does not answer.

    It sleeps before it raises: if a process was killed, launch ends this one first and says more.
    """
    try:
        return communicate(*arguments)
    except RuntimeError as error:
        time.sleep(2)
        what = GONE
        if "EADDRINUSE" in str(error):
            what = "another program has taken MASTER_PORT"
        raise InputError(f"train: {what}; dvc repro goes on after the last epoch") from error
