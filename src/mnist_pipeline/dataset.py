"""Reads MNIST's IDX files as tensors, and normalises images for the network."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from mnist_pipeline.files import InputError
from mnist_pipeline.mnist import CLASSES, DEVIATION, MEAN, SIDE


def read_pairs(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, 28, 28), and their labels, int64 (N,), of two IDX files.

    Raises InputError, naming the file, for anything but two whole IDX files that match.
    """
    images = _read_idx(images_path, dimensions=3)
    labels = _read_idx(labels_path, dimensions=1)
    if images.shape[1:] != (SIDE, SIDE):
        found = " × ".join(map(str, images.shape[1:]))
        raise InputError(f"{images_path}: expected images of {SIDE} × {SIDE}, found {found}")
    if len(labels) != len(images):
        raise InputError(f"{labels_path}: expected {len(images)} labels, found {len(labels)}")
    if labels.max() >= CLASSES:
        raise InputError(
            f"{labels_path}: expected labels 0-{CLASSES - 1}, found {int(labels.max())}"
        )
    return images, labels.long()


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, 28, 28) → float32 (N, 1, 28, 28) with mean 0 and deviation 1 on MNIST.

    The bits of torchvision's transforms ToDtype and Normalize, whose import takes 2 s.
    """
    return images.unsqueeze(1).float().mul_(1 / 255).sub_(MEAN).div_(DEVIATION)


def _read_idx(path: Path, dimensions: int) -> Tensor:
    """The bytes of an IDX file as uint8, shaped as its header says.

    Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type, dimensions, sizes, data).
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: expected a whole gzip file, found: {error}") from error
    start = 4 + 4 * dimensions
    magic = bytes((0, 0, 0x08, dimensions))
    if content[:4] != magic or len(content) < start:
        found = content[:4].hex() or "nothing"
        raise InputError(f"{path}: expected an IDX header {magic.hex()}, found {found}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = math.prod(shape)
    if size == 0 or len(content) - start != size:
        raise InputError(f"{path}: expected {size} bytes of data, found {len(content) - start}")
    return torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8).reshape(shape)
