"""Images that people have added to MNIST: one PNG each, named by its label and its pixels.

data/new/train/7-0123456789abcdef.png is a 7, whose pixels' SHA-256 begins with these digits. The
hash also decides whether an image is for training or for testing, once and for ever.
"""

import hashlib
import io
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnist_pipeline.files import NEW_TEST, NEW_TRAIN, InputError
from mnist_pipeline.mnist import CLASSES, SHAPE, SIDE

NAME = re.compile(rf"[0-{CLASSES - 1}]-[0-9a-f]{{16}}\.png")
TEST_SHARE = 5  # one image in five is for testing

Images = NDArray[np.uint8]  # (N, 28, 28)


def digest(image: Images) -> str:
    """The first 16 hex digits of the SHA-256 of an image's 784 bytes."""
    return hashlib.sha256(image.tobytes()).hexdigest()[:16]


def place(image: Images, label: int) -> Path:
    """Where an image (28, 28) with this label belongs."""
    key = digest(image)
    folder = NEW_TRAIN if int(key, 16) % TEST_SHARE else NEW_TEST
    return folder / f"{label}-{key}.png"


def encode(image: Images) -> bytes:
    """An image (28, 28) as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()


def read_new(folder: Path) -> tuple[list[str], Images, NDArray[np.int64]]:
    """The names of the new images in a folder, in order; the images; their labels.

    Raises InputError, naming the file, if one is not what its name and folder say, or if its pixels
    are there under another label, too.
    """
    # Without hidden files: .gitkeep keeps an empty folder in git, desktops leave .DS_Store.
    names = sorted(path.name for path in folder.glob("[!.]*"))
    images = [_read(folder / name) for name in names]
    keys: dict[str, str] = {}
    for name in names:
        if (other := keys.setdefault(name[1:], name)) != name:
            raise InputError(f"{folder / name}: expected one label for an image, found {other} too")
    labels = np.array([int(name[0]) for name in names], dtype=np.int64)
    return names, np.array(images, dtype=np.uint8).reshape(-1, *SHAPE), labels


def _read(path: Path) -> Images:
    if not NAME.fullmatch(path.name):
        raise InputError(f"{path}: expected a name like 7-0123456789abcdef.png")
    try:
        with Image.open(path) as picture:
            found = f"{picture.format} {picture.mode} {picture.width} × {picture.height}"
            image = np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: expected a picture, found: {error}") from error
    if found != f"PNG L {SIDE} × {SIDE}":
        raise InputError(f"{path}: expected PNG L {SIDE} × {SIDE} (grey, 8 bits), found {found}")
    expected = place(image, int(path.name[0]))
    if (path.parent.name, path.name) != (expected.parent.name, expected.name):
        raise InputError(f"{path}: by its pixels, expected {expected}")
    return image
