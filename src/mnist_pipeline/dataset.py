"""Reads MNIST's IDX files."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.files import InputError
from mnist_pipeline.mnist import CLASSES, SHAPE


def read_pairs(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images, uint8 (N, 28, 28), and their labels, int64 (N,), of two IDX files.

    Raises InputError, naming the file, for anything but two whole IDX files that match.
    """
    images = read_idx(images_path, SHAPE)
    labels = read_idx(labels_path, ())
    if len(labels) != len(images):
        raise InputError(f"{labels_path}: expected {len(images)} labels, found {len(labels)}")
    if labels.max() >= CLASSES:
        raise InputError(f"{labels_path}: expected labels 0-{CLASSES - 1}, found {labels.max()}")
    return images, labels.astype(np.int64)


def read_idx(path: Path, expected: tuple[int, ...]) -> NDArray[np.uint8]:
    """The content of an IDX file, uint8 (N, *expected), with N above 0.

    Format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, type, dimensions, sizes, data).
    Raises InputError, naming the file, for anything else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: expected a whole gzip file, found: {error}") from error
    dimensions = 1 + len(expected)
    start = 4 + 4 * dimensions
    magic = bytes((0, 0, 0x08, dimensions))
    if content[:4] != magic or len(content) < start:
        found = content[:4].hex() or "nothing"
        raise InputError(f"{path}: expected an IDX header {magic.hex()}, found {found}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    size = math.prod(shape)
    if size == 0:
        raise InputError(f"{path}: expected at least one image or label, found none")
    if len(content) - start != size:
        raise InputError(f"{path}: expected {size} bytes of data, found {len(content) - start}")
    if shape[1:] != expected:
        wanted, found = (" × ".join(map(str, each)) for each in (expected, shape[1:]))
        raise InputError(f"{path}: expected images of {wanted}, found {found}")
    return np.frombuffer(bytearray(content), np.uint8, offset=start).reshape(shape)
