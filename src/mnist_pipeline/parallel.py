"""Threads and processes that share a step's work; their number changes no byte of the result.

The work comes in parts, each computed by one thread. Sums over parts follow one binary tree:
((a + b) + (c + d)). If one process computes a + b and another one c + d, they exchange these sums
and each finishes the tree.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import torch
from joblib import cpu_count
from pydantic import Field
from torch import Tensor, distributed

from mnist_pipeline.files import InputError, Record

GONE = "another process of this training is gone or does not answer"
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
        if self.processes == 1:
            return mine
        flat = torch.cat([tensor.flatten() for tensor in mine])  # one message is the fastest
        blocks = [torch.empty_like(flat) for _ in range(self.processes)]
        blocks[self.rank] = flat
        reach(exchange, blocks, self.rank)
        (whole,) = add_by_tree([[block] for block in blocks])
        pieces = whole.split([tensor.numel() for tensor in mine])
        return [piece.view_as(tensor) for piece, tensor in zip(pieces, mine, strict=True)]

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


def exchange(blocks: list[Tensor], own: int) -> None:
    """Send the own block to each other process, and receive theirs; all_gather is slower."""
    operations = []
    for rank, block in enumerate(blocks):
        if rank != own:
            operations.append(distributed.P2POp(distributed.isend, blocks[own], rank))
            operations.append(distributed.P2POp(distributed.irecv, block, rank))
    for work in distributed.batch_isend_irecv(operations):
        work.wait()


def reach(communicate: Callable[..., Any], *arguments: Any) -> None:
    """Exchange something with the other processes; InputError if one does not answer.

    It sleeps before it raises: if a process was killed, launch ends this one first and says more.
    """
    try:
        communicate(*arguments)
    except RuntimeError as error:
        time.sleep(2)
        what = GONE
        if "EADDRINUSE" in str(error):
            what = "another program has taken MASTER_PORT"
        raise InputError(f"train: {what}; dvc repro goes on after the last epoch") from error
