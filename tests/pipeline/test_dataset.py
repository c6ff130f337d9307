"""IDX files: read strictly, refused in one line."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import InputError
from mnist_pipeline.model import normalize

PIXELS = bytes(range(256)) * 7  # 1792 bytes, of which 2 × 28 × 28 are taken
IMAGES = struct.pack(">IIII", 0x803, 2, 28, 28) + PIXELS[:1568]
LABELS = struct.pack(">II", 0x801, 2) + bytes([3, 9])


def write(folder: Path, images: bytes = IMAGES, labels: bytes = LABELS) -> tuple[Path, Path]:
    """Two IDX files in a folder, compressed."""
    paths = folder / "images.gz", folder / "labels.gz"
    for path, content in zip(paths, (images, labels), strict=True):
        path.write_bytes(gzip.compress(content))
    return paths


def test_pixels_and_labels_arrive_unchanged(tmp_path):
    """Every byte is where the format says."""
    images, labels = read_pairs(*write(tmp_path))
    assert images.dtype == np.uint8
    assert images.shape == (2, 28, 28)
    assert images.flatten().tolist() == list(PIXELS[:1568])
    assert labels.dtype == np.int64
    assert labels.tolist() == [3, 9]


BAD = {
    "an HTML page": (b"<html>404</html>", LABELS, "header 00000803, found 3c68746d"),
    "nothing": (b"", LABELS, "images.gz: expected an IDX header 00000803, found nothing"),
    "one byte short": (IMAGES[:-1], LABELS, "images.gz: expected 1568 bytes of data, found 1567"),
    "one byte more": (IMAGES + b"x", LABELS, "expected 1568 bytes of data, found 1569"),
    "half a header": (IMAGES[:9], LABELS, "images.gz: expected an IDX header 00000803, found"),
    "no images": (
        struct.pack(">IIII", 0x803, 0, 28, 28),
        LABELS,
        "images.gz: expected at least one image or label, found none",
    ),
    "another size": (
        struct.pack(">IIII", 0x803, 2, 14, 56) + PIXELS[:1568],
        LABELS,
        "images.gz: expected images of 28 × 28, found 14 × 56",
    ),
    "a label too many": (
        IMAGES,
        struct.pack(">II", 0x801, 3) + bytes(3),
        "labels.gz: expected 2 labels, found 3",
    ),
    "a label of 10": (IMAGES, LABELS[:-1] + b"\x0a", "labels.gz: expected labels 0-9, found 10"),
}


@pytest.mark.parametrize(("images", "labels", "says"), BAD.values(), ids=list(BAD))
def test_bad_content_is_refused(tmp_path, images, labels, says):
    """File, expectation and finding in one line, for each way to be wrong."""
    with pytest.raises(InputError) as error:
        read_pairs(*write(tmp_path, images, labels))
    assert says in str(error.value)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b"x" + b[1:], lambda b: b[:10] + b"\x07" + b[11:]]
)
def test_bad_compression_is_refused(tmp_path, damage):
    """A truncated, foreign or damaged file in place of a gzip file."""
    paths = write(tmp_path)
    paths[0].write_bytes(damage(paths[0].read_bytes()))
    with pytest.raises(InputError, match=r"images.gz: expected a whole gzip file, found: "):
        read_pairs(*paths)


def test_normalize_is_torchvisions_transform():
    """To the bit, for each of the 256 bytes, with a channel added."""
    from torchvision.transforms import v2  # noqa: PLC0415 (takes seconds)

    images = torch.arange(256, dtype=torch.uint8).repeat(4)[:784].reshape(1, 28, 28)
    to_float = v2.ToDtype(torch.float32, scale=True)
    transform = v2.Compose([to_float, v2.Normalize((0.1307,), (0.3081,))])
    assert torch.equal(normalize(images), transform(images[:, None]))
