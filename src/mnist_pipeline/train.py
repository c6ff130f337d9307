"""Stage train: Adadelta on the training images, a validation score after every epoch.

PYTHONPATH=src python -m mnist_pipeline train
"""

import hashlib
import json
import math
import sys
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.optim import Adadelta
from torch.optim.lr_scheduler import StepLR
from tqdm import tqdm

from mnist_pipeline import runtime
from mnist_pipeline.checkpoint import Checkpoint
from mnist_pipeline.dataset import normalize, read_pairs
from mnist_pipeline.files import ENVIRONMENT, HISTORY, WEIGHTS, InputError, Record, write_atomically
from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.model import Net, Provenance, predict, write_weights
from mnist_pipeline.params import load_params

VALIDATION_BATCH = 1000

Row = dict[str, float | None]  # of history.csv


class TrainParams(Record):
    seed: int = Field(ge=0, le=2**32 - 1, description="of weights, order, dropout and split")
    epochs: int = Field(ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(ge=1, le=60_000, description="images a step")
    lr: float = Field(gt=0, description="learning rate of the first epoch")
    gamma: float = Field(gt=0, le=1, description="factor on the learning rate after every epoch")
    validation_fraction: float = Field(ge=0, lt=1, description="share of images held out")
    precision: Literal["float32", "bfloat16"] = Field(description="of the products in training")
    dry_run: bool = Field(description="stop after the first batch; the result is marked as such")


class LogParams(Record):
    interval: int = Field(ge=1, description="batches between progress lines; reruns nothing")


def main() -> None:
    params = load_params("train", TrainParams)
    interval = load_params("log", LogParams).interval
    device = runtime.start(load_params("runtime", runtime.RuntimeParams))
    images, labels = read_pairs(TRAIN_IMAGES, TRAIN_LABELS)
    provenance = describe(params)
    environment = runtime.environment(device)
    # How many epochs there are does not change an epoch: with more, a training goes on.
    work = provenance.model_dump(exclude={"parameters": {"epochs"}}) | {"environment": environment}

    training = Training(params, device)
    training.run_epochs(images, labels, interval, Checkpoint(work))

    table = pd.DataFrame(training.history).to_csv(index=False, float_format="%.6g")
    write_weights(WEIGHTS, training.net, provenance)
    write_atomically(HISTORY, table.encode())
    write_atomically(ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())


class Training:
    """A network, its optimiser, its falling learning rate, and a row for each finished epoch."""

    def __init__(self, params: TrainParams, device: torch.device) -> None:
        torch.manual_seed(params.seed)
        self.params = params
        self.device = device
        self.net = Net().to(device)
        self.optimizer = Adadelta(self.net.parameters(), lr=params.lr)
        self.scheduler = StepLR(self.optimizer, step_size=1, gamma=params.gamma)
        self.autocast = start_autocast(device, params.precision)
        self.history: list[Row] = []

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

    def run_epochs(
        self, images: Tensor, labels: Tensor, interval: int, checkpoint: Checkpoint
    ) -> None:
        """Train the epochs that the checkpoint does not have, and keep the state after each.

        Images are uint8 (N, 28, 28), labels int64 (N,). A dry run neither uses nor keeps states.
        """
        dry_run = self.params.dry_run
        epochs = 1 if dry_run else self.params.epochs
        indices, held_out = split(labels, self.params.validation_fraction, self.params.seed)
        images, labels = images.to(self.device), labels.to(self.device)
        with checkpoint.lock():
            state = None if dry_run else checkpoint.load(epochs)
            if state:
                self.load_state_dict(state)
                print(f"Resumed after epoch {len(self.history)} of {epochs}")
            for epoch in range(len(self.history) + 1, epochs + 1):
                row: Row = {"epoch": epoch, "lr": float(self.scheduler.get_last_lr()[0])}
                row["train_loss"] = self.train_epoch(epoch, images, labels, indices, interval)
                row |= validation_scores(self.net, images[held_out], labels[held_out])
                self.history.append(row)
                self.scheduler.step()
                if not dry_run:
                    checkpoint.save(self.state_dict(), epoch)

    def train_epoch(
        self, epoch: int, images: Tensor, labels: Tensor, indices: Tensor, interval: int
    ) -> float:
        """One step for each batch of the images at `indices`; the mean of the batches' losses.

        Order and dropout depend on (seed, epoch) alone. Raises InputError when the mean is no
        longer finite.
        """
        order_seed, dropout_seed = epoch_seeds(self.params.seed, epoch)
        shuffled = torch.randperm(len(indices), generator=torch.Generator().manual_seed(order_seed))
        batches = indices[shuffled].to(self.device).split(self.params.batch_size)
        batches = batches[:1] if self.params.dry_run else batches
        torch.manual_seed(dropout_seed)
        self.net.train()
        losses = []
        for number, batch in enumerate(tqdm(batches, f"epoch {epoch}", leave=False, disable=None)):
            losses.append(self.step(images[batch], labels[batch]))
            if number % interval == 0:
                tqdm.write(progress_line(epoch, number, batches, losses[-1].item()))
        mean = torch.stack(losses).cpu().double().mean().item()
        if not math.isfinite(mean):
            where = f"params.yaml: train.lr: expected a finite loss in epoch {epoch}"
            raise InputError(f"{where}, found {mean}")
        return mean

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser on uint8 images (B, 28, 28); the batch's mean loss, ()."""
        self.optimizer.zero_grad()
        with self.autocast:
            loss = F.nll_loss(self.net(normalize(images)), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()  # not .item(): an accelerator would have to wait


def split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation images, stratified by label.

    Raises InputError where the fraction leaves too few images of a label on either side.
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return torch.from_numpy(everything), torch.empty(0, dtype=torch.int64)
    try:
        training, validation = train_test_split(
            everything, test_size=fraction, random_state=seed, stratify=labels.numpy()
        )
    except ValueError as error:
        key = "params.yaml: train.validation_fraction"
        raise InputError(f"{key}: expected enough images on both sides, found: {error}") from error
    return torch.from_numpy(training), torch.from_numpy(validation)


def epoch_seeds(seed: int, epoch: int) -> tuple[int, int]:
    """Seeds of an epoch's order and of its dropout: the same ones after a resume."""
    order, dropout = np.random.SeedSequence([seed, epoch]).generate_state(2).tolist()
    return order, dropout


def start_autocast(device: torch.device, precision: str) -> torch.autocast:
    """What the forward pass runs in. Warns where bfloat16 is slow."""
    half = precision == "bfloat16"
    if half and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        which = torch.backends.cpu.get_cpu_capability()
        what = f"this CPU ({which}) has no bfloat16, which makes it many times slower than float32"
        print(f"warning: params.yaml: train.precision: {what}", file=sys.stderr)
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


def progress_line(epoch: int, number: int, batches: tuple[Tensor, ...], loss: float) -> str:
    """The classic program's line: epoch, images done of how many, the batch's loss."""
    done = number * len(batches[number])
    total = sum(map(len, batches))
    percent = 100.0 * number / len(batches)
    return f"Train Epoch: {epoch} [{done}/{total} ({percent:.0f}%)]\tLoss: {loss:.6f}"


def validation_scores(net: Net, images: Tensor, labels: Tensor) -> Row:
    """Loss and accuracy on the images held out; None for both where there are none."""
    total = len(labels)
    if total == 0:
        return {"validation_loss": None, "validation_accuracy": None}
    log_probabilities = predict(net, images, VALIDATION_BATCH)  # (N, 10)
    loss = F.nll_loss(log_probabilities, labels.cpu()).item()
    correct = int((log_probabilities.argmax(1) == labels.cpu()).sum())
    share = f"{correct}/{total} ({100.0 * correct / total:.2f}%)"
    print(f"\nValidation set: Average loss: {loss:.4f}, Accuracy: {share}\n")
    return {"validation_loss": loss, "validation_accuracy": correct / total}


def describe(params: TrainParams) -> Provenance:
    """What the weights are trained with, for their file."""
    paths = (TRAIN_IMAGES, TRAIN_LABELS)
    data = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return Provenance(dry_run=params.dry_run, parameters=params.model_dump(), data=data)
