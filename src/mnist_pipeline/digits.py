"""The embedded data set: scikit-learn's 1,797 scanned digits as MNIST's four files."""

import gzip
import io
import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS

TEST_SIZE = 360
SPLIT_SEED = 0

Bytes = NDArray[np.uint8]


def idx_files() -> dict[str, bytes]:
    """MNIST's file names with the digits inside: the same bytes on every call.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    digits, labels = load_digits(return_X_y=True)
    images = np.stack([_enlarge(digit) for digit in digits.reshape(-1, 8, 8)])  # (N, 28, 28)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_SIZE, random_state=SPLIT_SEED, stratify=labels
    )
    return {
        TRAIN_IMAGES.name: _idx(train_images),
        TRAIN_LABELS.name: _idx(train_labels.astype(np.uint8)),
        TEST_IMAGES.name: _idx(test_images),
        TEST_LABELS.name: _idx(test_labels.astype(np.uint8)),
    }


def _enlarge(digit: NDArray[np.float64]) -> Bytes:
    """8 × 8 with values 0-16 → 28 × 28 with values 0-255: 20 × 20 in the middle, as in MNIST."""
    small = Image.fromarray((digit * 255 / 16).astype(np.uint8))
    large = small.resize((20, 20), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(large), 4)


def _idx(array: Bytes) -> bytes:
    """The array in IDX format, stored in a gzip file without compression or time stamp.

    Compressed bytes would differ between versions of zlib.
    """
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=0, fileobj=packed, mtime=0) as file:
        file.write(header + array.tobytes())
    return packed.getvalue()
