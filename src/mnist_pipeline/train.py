"""Stage train: Adadelta on the training images, a validation score after every epoch.

PYTHONPATH=src python -m mnist_pipeline.train
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import Field
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.optim import Adadelta, Optimizer
from torch.optim.lr_scheduler import StepLR
from tqdm import tqdm

from mnist_pipeline import resume, runtime
from mnist_pipeline.dataset import Pairs, normalize, read_pairs
from mnist_pipeline.mnist_files import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.model import WEIGHTS, Net, Provenance, predict, write_weights
from mnist_pipeline.params import Params, load
from mnist_pipeline.stage import InputError, run, write_atomically

HISTORY = Path("metrics/history.csv")
ENVIRONMENT = Path("metrics/environment.json")
VALIDATION_BATCH = 1000


class TrainParams(Params):
    seed: int = Field(
        ge=0, le=2**32 - 1, description="of weights, order, dropout and validation split"
    )
    epochs: int = Field(ge=1, le=10_000, description="passes over the training images")
    batch_size: int = Field(ge=1, le=60_000, description="images a step")
    lr: float = Field(gt=0, description="learning rate of the first epoch")
    gamma: float = Field(gt=0, le=1, description="factor on the learning rate after every epoch")
    validation_fraction: float = Field(
        ge=0, lt=1, description="share of the training images held out for the curve; 0 = none"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        description="of the products in training; weights and sums stay float32"
    )
    dry_run: bool = Field(description="stop after the first batch; the result is marked as such")


class LogParams(Params):
    interval: int = Field(ge=1, description="batches between progress lines; reruns nothing")


def main() -> None:
    params, log = load("train", TrainParams), load("log", LogParams)
    device = runtime.start(load("runtime", runtime.RuntimeParams))
    pairs = read_pairs(TRAIN_IMAGES, TRAIN_LABELS)
    origin, environment = provenance(params), runtime.environment(device)
    indices, validation = split(pairs.labels, params.validation_fraction, params.seed)
    pairs = Pairs(pairs.images.to(device), pairs.labels.to(device))
    held_out = Pairs(pairs.images[validation], pairs.labels[validation])
    epochs = 1 if params.dry_run else params.epochs

    training = start_training(params, device)
    net, optimizer, scheduler, history = training
    autocast = start_autocast(device, params.precision)
    with resume.states(work(origin, environment), keep=not params.dry_run) as states:
        for number in range(states.load(training, epochs) + 1, epochs + 1):
            order = indices[start_epoch(params.seed, number, len(indices))].to(device)
            batches = order.split(params.batch_size)[: 1 if params.dry_run else None]
            epoch = Epoch(number, batches, log.interval)
            row: resume.Row = {"epoch": number, "lr": float(scheduler.get_last_lr()[0])}
            row |= train_epoch(net, optimizer, pairs, epoch, autocast)
            row |= validate(net, held_out)
            history.append(row)
            scheduler.step()
            states.save(training, number)

    table = pd.DataFrame(history).to_csv(index=False, float_format="%.6g")
    write_weights(WEIGHTS, net, origin)
    write_atomically(HISTORY, table.encode())
    write_atomically(ENVIRONMENT, (json.dumps(environment, indent=2) + "\n").encode())


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


def start_training(params: TrainParams, device: torch.device) -> resume.Training:
    """The network with its initial weights, Adadelta, and a learning rate that falls."""
    torch.manual_seed(params.seed)
    net = Net().to(device)
    optimizer = Adadelta(net.parameters(), lr=params.lr)
    scheduler = StepLR(optimizer, step_size=1, gamma=params.gamma)
    return resume.Training(net, optimizer, scheduler, history=[])


def start_epoch(seed: int, epoch: int, size: int) -> Tensor:
    """The epoch's permutation of (size,) images; also seeds the epoch's dropout.

    Both depend on (seed, epoch) alone, so that an epoch is the same after a resume.
    """
    shuffle, dropout = np.random.SeedSequence([seed, epoch]).generate_state(2).tolist()
    torch.manual_seed(dropout)
    return torch.randperm(size, generator=torch.Generator().manual_seed(shuffle))


def start_autocast(device: torch.device, precision: str) -> torch.autocast:
    """What the forward pass runs in; warns where bfloat16 is slow."""
    half = precision == "bfloat16"
    if half and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        which = torch.backends.cpu.get_cpu_capability()
        what = f"this CPU ({which}) has no bfloat16, which makes it many times slower than float32"
        print(f"warning: params.yaml: train.precision: {what}", file=sys.stderr)
    return torch.autocast(device.type, torch.bfloat16, enabled=half)


class Epoch(NamedTuple):
    """The work of an epoch, and how often to tell of it."""

    number: int  # from 1
    batches: tuple[Tensor, ...]  # indices of images, int64
    interval: int  # batches between progress lines


def train_epoch(
    net: Net, optimizer: Optimizer, pairs: Pairs, epoch: Epoch, autocast: torch.autocast
) -> dict[str, float]:
    """One step for each batch, and the mean of the batches' losses.

    Raises InputError when that is no longer finite.
    """
    net.train()
    losses = []
    bar = tqdm(epoch.batches, desc=f"epoch {epoch.number}", leave=False, disable=None)
    for number, batch in enumerate(bar):
        optimizer.zero_grad()
        with autocast:
            loss = F.nll_loss(net(normalize(pairs.images[batch])), pairs.labels[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())  # not .item(): an accelerator would have to wait
        if number % epoch.interval == 0:
            tqdm.write(progress_line(epoch, number, loss.item()))
    mean = torch.stack(losses).cpu().double().mean().item()
    if not math.isfinite(mean):
        where = f"params.yaml: train.lr: expected a finite loss in epoch {epoch.number}"
        raise InputError(f"{where}, found {mean}")
    return {"train_loss": mean}


def progress_line(epoch: Epoch, number: int, loss: float) -> str:
    """The classic program's line: epoch, images done, of how many, the batch's loss."""
    done, total = number * len(epoch.batches[number]), sum(map(len, epoch.batches))
    percent = 100.0 * number / len(epoch.batches)
    return f"Train Epoch: {epoch.number} [{done}/{total} ({percent:.0f}%)]\tLoss: {loss:.6f}"


def validate(net: Net, pairs: Pairs) -> resume.Row:
    """Loss and accuracy on the images held out; none of both where none are."""
    total = len(pairs.labels)
    if total == 0:
        return {"validation_loss": None, "validation_accuracy": None}
    log_probabilities = predict(net, pairs.images, VALIDATION_BATCH)  # (N, 10)
    labels = pairs.labels.cpu()
    loss = F.nll_loss(log_probabilities, labels).item()
    correct = int((log_probabilities.argmax(1) == labels).sum())
    share = f"{correct}/{total} ({100.0 * correct / total:.2f}%)"
    print(f"\nValidation set: Average loss: {loss:.4f}, Accuracy: {share}\n")
    return {"validation_loss": loss, "validation_accuracy": correct / total}


def provenance(params: TrainParams) -> Provenance:
    """What the weights were trained with, for their file."""
    files = (TRAIN_IMAGES, TRAIN_LABELS)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return Provenance(dry_run=params.dry_run, parameters=params.model_dump(), data=hashes)


def work(origin: Provenance, environment: dict[str, str | int]) -> dict[str, Any]:
    """What decides an epoch's result, besides the code: not how many epochs there are."""
    parameters = {name: value for name, value in origin.parameters.items() if name != "epochs"}
    return {"data": origin.data, "parameters": parameters, "environment": environment}


if __name__ == "__main__":
    run(main)
