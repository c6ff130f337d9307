"""Stage train: Adadelta on the training images, a validation score after every epoch.

PYTHONPATH=src python -m mnist_pipeline train
"""

import copy
import json
import math
import time
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim.lr_scheduler import StepLR
from tqdm import tqdm

from mnist_pipeline import files, ranks, runtime
from mnist_pipeline.adadelta import FusedAdadelta
from mnist_pipeline.arithmetic import RuntimeParams
from mnist_pipeline.batches import Data, Part, draw_seed, read_training_data, shuffle
from mnist_pipeline.checkpoint import Checkpoint
from mnist_pipeline.cuda_graph import CapturedGradient
from mnist_pipeline.files import InputError, Record, load_params, write_atomically
from mnist_pipeline.model import Net, Provenance, describe, normalize, predict, write_weights
from mnist_pipeline.parallel import MachineParams, PowerOfTwo, Workers

VALIDATION_BATCH = 250  # images that a thread takes at once

Row = dict[str, float | None]  # of history.csv


class TrainParams(Record):
    seed: int = Field(ge=0, le=2**32 - 1, description="of weights, order, dropout and split")
    epochs: int = Field(ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(ge=1, le=60_000, description="images a step")
    micro_batches: PowerOfTwo = Field(description="parts of a batch, each one thread's work")
    lr: float = Field(gt=0, le=1000, description="learning rate of the first epoch")
    gamma: float = Field(gt=0, le=1, description="factor on the learning rate after every epoch")
    validation_fraction: float = Field(ge=0, lt=1, description="share of images held out")
    new_images_weight: int = Field(ge=1, le=1000, description="times that a new image counts")
    precision: Literal["float32", "bfloat16"] = Field(description="number format of the products")
    dry_run: bool = Field(description="stop after the first batch; the result is marked as such")


class LogParams(Record):
    interval: int = Field(ge=1, description="batches between progress lines; reruns nothing")


def main() -> None:
    params, platform = load_params("train", TrainParams), load_params("runtime", RuntimeParams)
    machine, log = load_params("machine", MachineParams), load_params("log", LogParams)
    processes = ranks.count(machine)
    check_combination(params, platform, processes)
    device = runtime.start(platform)
    if processes > 1 and not ranks.started_by_torchrun():
        ranks.launch("train", processes)
        return
    data, new = read_training_data(
        params.validation_fraction, params.seed, params.new_images_weight
    )
    device, workers = ranks.join(device, machine)
    start = time.monotonic()
    provenance = describe(params.model_dump(), new)
    environment = runtime.environment(device, platform.arithmetic)
    training = Training(params, device, workers)
    others = {"environment": environment, "schedule": training.scheduler.state_dict()}
    training.run_epochs(data, log.interval, find_checkpoint(provenance, others, workers))
    if workers.rank == 0:
        table = pd.DataFrame(training.history).to_csv(index=False, float_format="%.6g")
        write_weights(files.WEIGHTS, training.net, provenance)
        write_atomically(files.HISTORY, table.encode())
        write_atomically(files.ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())
    ranks.leave()
    used = f"processes: {workers.processes}, threads of each: {workers.threads}"
    print(f"Took {time.monotonic() - start:.0f} s; {used}, processor: {runtime.processor()}")


def check_combination(params: TrainParams, platform: RuntimeParams, processes: int) -> None:
    """Raises InputError for parameters that exclude each other."""
    parts = params.micro_batches
    if parts > params.batch_size:
        most = f"expected at most train.batch_size = {params.batch_size}"
        raise InputError(f"params.yaml: train.micro_batches: {most}, found {parts}")
    if parts % processes:
        fits = f"expected a multiple of the number of processes, {processes}"
        raise InputError(f"params.yaml: train.micro_batches: {fits}, found {parts}")
    if params.precision == "bfloat16" and platform.arithmetic == "portable":
        what = "bfloat16 needs runtime.arithmetic: native, found portable"
        raise InputError(f"params.yaml: train.precision: {what}")


def find_checkpoint(provenance: Provenance, others: dict[str, Any], workers: Workers) -> Checkpoint:
    """The checkpoint of a training with this provenance, and others that decide its result.

    Raises InputError if this process trains something else than the first one, or if an input has
    changed since it started: the code that it has loaded may then be neither the old nor the new.
    """
    files.check_inputs("train")
    inputs = files.inputs_at_start("train").items()
    # What counts of these two, the provenance and the environment hold.
    covered = {f"{files.PARAMS}: {section}" for section in ("train", "runtime")}
    read = {name: found for name, found in inputs if name not in covered}
    # The number of epochs changes no epoch, unless the schedule, one of the others, knows it.
    work = provenance.model_dump(exclude={"parameters": {"epochs"}})
    checkpoint = Checkpoint(work | others | {"files": read})
    if workers.share(checkpoint.key) != checkpoint.key:
        what = "expected the code, parameters, data and versions of the first process"
        raise InputError(f"train: process {workers.rank}: {what}, found others")
    return checkpoint


class Training:
    """A network, its optimiser, its falling learning rate, and a row for each finished epoch."""

    def __init__(self, params: TrainParams, device: torch.device, workers: Workers) -> None:
        torch.manual_seed(params.seed)
        self.params = params
        self.device = device
        self.workers = workers
        self.net = Net().to(device)
        self.optimizer = FusedAdadelta(self.net.parameters(), lr=params.lr)
        self.scheduler = StepLR(self.optimizer, step_size=1, gamma=params.gamma)
        self.history: list[Row] = []
        # This computes the products: for bfloat16, a copy of the network that each step renews.
        half = params.precision == "bfloat16"
        self.working = copy.deepcopy(self.net).bfloat16() if half else self.net
        on_cuda = device.type == "cuda"
        self.gradient = CapturedGradient(self.compute) if on_cuda else self.compute

    def state_dict(self) -> dict[str, Any]:
        """Everything that an epoch changes. Random numbers come from (seed, epoch) alone."""
        return {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state: the next epoch gives the bytes that it would have given then."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.history = state["history"]

    def run_epochs(self, data: Data, interval: int, checkpoint: Checkpoint) -> None:
        """Train the epochs that the checkpoint does not have, and keep the state after each.

        A dry run neither uses nor keeps states.
        """
        dry_run = self.params.dry_run
        epochs = self.workers.share(1 if dry_run else self.params.epochs)  # the first one's counts
        data = Data(*(tensor.to(self.device) for tensor in data))
        first = self.workers.rank == 0  # the process that keeps states
        alone = self.workers.processes == 1
        with checkpoint.lock(wait=alone) if first else nullcontext():
            stored = checkpoint.load(epochs) if first and not dry_run else None
            state = self.workers.share(stored)
            if state:
                self.load_state_dict(state)
                print(f"Resumed after epoch {len(self.history)} of {epochs}")
            for epoch in range(len(self.history) + 1, epochs + 1):
                row: Row = {"epoch": epoch, "lr": float(self.scheduler.get_last_lr()[0])}
                row["train_loss"] = self.train_epoch(epoch, data, interval)
                row |= self.validate(data.images[data.held_out], data.labels[data.held_out])
                check_finite(row)
                self.history.append(row)
                self.scheduler.step()
                if first and not dry_run:
                    checkpoint.save(self.state_dict(), epoch)

    def train_epoch(self, epoch: int, data: Data, interval: int) -> float:
        """Take one step for each batch; returns the mean of the batches' losses.

        The order depends on (seed, epoch) alone.
        """
        batches = shuffle(data.learned, self.params.seed, epoch, self.params.batch_size)
        batches = batches[:1] if self.params.dry_run else batches
        self.working.train()
        losses = []
        hidden = self.workers.rank > 0 or None  # None: tqdm shows a bar on a terminal only
        for number, batch in enumerate(
            tqdm(batches, f"epoch {epoch}", leave=False, disable=hidden)
        ):
            losses.append(self.step(data.images[batch], data.labels[batch], (epoch, number)))
            if number % interval == 0:
                tqdm.write(progress_line(epoch, number, batches, losses[-1].item()))
        return torch.stack(losses).cpu().double().mean().item()

    def step(self, images: Tensor, labels: Tensor, when: tuple[int, int]) -> Tensor:
        """One step of the optimiser on uint8 images (B, 28, 28); the batch's mean loss, ().

        `when` is the epoch, and the number of the batch in it.
        """
        if self.working is not self.net:
            with torch.no_grad():
                torch._foreach_copy_(list(self.working.parameters()), list(self.net.parameters()))
        count = self.params.micro_batches
        seeds = [draw_seed(self.params.seed, *when, part) for part in range(count)]
        dropouts = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        cut = (each.tensor_split(count) for each in (images, labels))
        parts = list(zip(*cut, dropouts, strict=True))
        share = partial(self.gradient, total=len(images))
        loss, *gradients = self.workers.add(self.workers.map(share, self.workers.own(parts)))
        for parameter, gradient in zip(self.net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        return loss  # not .item(): an accelerator would have to wait

    def compute(self, part: Part, total: int) -> list[Tensor]:
        """What a part adds to the mean loss over a batch of `total` images, and to its gradient."""
        images, labels, dropout = part
        weights = list(self.working.parameters())
        log_probabilities = self.working(normalize(images).to(weights[0].dtype), dropout)
        loss = F.nll_loss(log_probabilities, labels, reduction="sum") / total
        gradients = torch.autograd.grad(loss, weights)  # .backward() would share .grad
        full = zip(gradients, self.net.parameters(), strict=True)
        return separate([loss.detach(), *(gradient.to(weight.dtype) for gradient, weight in full)])

    def validate(self, images: Tensor, labels: Tensor) -> Row:
        """Loss and accuracy on the images held out; None for both if there are none."""
        total = len(labels)
        if total == 0:
            return {"validation_loss": None, "validation_accuracy": None}
        log_probabilities = predict(self.net, images, VALIDATION_BATCH, self.workers)  # (N, 10)
        loss = F.nll_loss(log_probabilities, labels.cpu()).item()
        correct = int((log_probabilities.argmax(1) == labels.cpu()).sum())
        share = f"{correct}/{total} ({100.0 * correct / total:.2f}%)"
        print(f"\nValidation set: Average loss: {loss:.4f}, Accuracy: {share}\n")
        return {"validation_loss": loss, "validation_accuracy": correct / total}


def separate(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, each in memory of its own, so that adding to one in place changes no other.

    For a + b, torch gives a and b one gradient in the same memory.
    """
    taken: set[int] = set()
    for place, tensor in enumerate(tensors):
        memory = tensor.untyped_storage().data_ptr()
        if memory in taken or 0 in tensor.stride():  # 0: its own elements share memory
            tensors[place] = tensor.clone(memory_format=torch.contiguous_format)
        taken.add(memory)
    return tensors


def check_finite(row: Row) -> None:
    """Raises InputError for an epoch with a loss that is not finite."""
    for name in ("train_loss", "validation_loss"):
        if not math.isfinite(loss := row[name] or 0):
            where = f"params.yaml: train.lr: expected a finite {name} in epoch {row['epoch']}"
            raise InputError(f"{where}, found {loss}")


def progress_line(epoch: int, number: int, batches: tuple[Tensor, ...], loss: float) -> str:
    """The classic program's line: epoch, images done of how many, the batch's loss."""
    done = number * len(batches[0])  # the last one may be smaller
    total = sum(map(len, batches))
    percent = 100.0 * number / len(batches)
    return f"Train Epoch: {epoch} [{done}/{total} ({percent:.0f}%)]\tLoss: {loss:.6f}"
