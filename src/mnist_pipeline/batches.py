"""Which images a training learns from, in which order: pure functions of the seed and the data."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import NEW_TRAIN, InputError
from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.new_images import read_new

Part = tuple[Tensor, Tensor, torch.Generator]  # images, labels, the dropout's generator


class Data(NamedTuple):
    """What a training learns from, and what it validates on."""

    images: Tensor  # uint8 (N, 28, 28)
    labels: Tensor  # int64 (N,)
    learned: Tensor  # indices; that of a new image may occur several times
    held_out: Tensor  # indices for validation


def read_training_data(fraction: float, seed: int, weight: int) -> tuple[Data, list[str]]:
    """MNIST's training images together with the new ones, and the names of the new ones.

    `fraction` of MNIST's is held out for validation. Each new image counts `weight` times.
    Raises InputError for files that read_pairs or read_new refuse.
    """
    images, labels = map(torch.from_numpy, read_pairs(TRAIN_IMAGES, TRAIN_LABELS))
    learned, held_out = split(labels, fraction, seed)
    names, new_images, new_labels = read_new(NEW_TRAIN)
    new = torch.arange(len(names)).repeat(weight) + len(labels)
    images = torch.cat([images, torch.from_numpy(new_images)])
    labels = torch.cat([labels, torch.from_numpy(new_labels)])
    return Data(images, labels, torch.cat([learned, new]), held_out), names


def split(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training and of the validation images, stratified by label.

    Raises InputError if the fraction leaves too few images of a label on either side.
    """
    everything = np.arange(len(labels))
    if fraction == 0:
        return torch.from_numpy(everything), torch.empty(0, dtype=torch.int64)
    from sklearn.model_selection import train_test_split  # noqa: PLC0415 (slow)

    try:
        training, validation = train_test_split(
            everything, test_size=fraction, random_state=seed, stratify=labels.numpy()
        )
    except ValueError as error:
        key = "params.yaml: train.validation_fraction"
        raise InputError(f"{key}: expected enough images on both sides, found: {error}") from error
    return torch.from_numpy(training), torch.from_numpy(validation)


def shuffle(indices: Tensor, seed: int, epoch: int, batch_size: int) -> tuple[Tensor, ...]:
    """The images at `indices` in an epoch's order, as batches; the last one may be smaller."""
    order = torch.Generator().manual_seed(draw_seed(seed, epoch))
    shuffled = indices[torch.randperm(len(indices), generator=order)]
    return tuple(shuffled.split(batch_size))


def draw_seed(*place: int) -> int:
    """A seed for a place in the training: (seed, epoch), or (seed, epoch, batch, part)."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])
