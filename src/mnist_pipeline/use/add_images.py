"""Put pictures of digits into data/new, in MNIST's form.

python -m mnist_pipeline add-images LABEL PICTURE...    # LABEL: 0 to 9
python -m mnist_pipeline add-images FOLDER              # with subfolders 0 to 9
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.dataset import read_idx
from mnist_pipeline.files import PARAMS, InputError, write_atomically
from mnist_pipeline.mnist import SHAPE, TEST_IMAGES, TRAIN_IMAGES
from mnist_pipeline.new_images import digest, encode, place
from mnist_pipeline.review.result import find_new
from mnist_pipeline.use.digit import read_digit

Known = dict[str, str]  # digest of an image: where it is


def main() -> None:
    """Add each picture and print where it went; exit status 2 where one was refused."""
    parser = argparse.ArgumentParser(description="Add pictures of digits to data/new.")
    parser.add_argument("what", help="the label, 0 to 9; or a folder with subfolders 0 to 9")
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE")
    options = parser.parse_args()
    if not PARAMS.exists():
        raise InputError(f"{Path.cwd()}: expected the project's checkout, found no {PARAMS}")
    pairs, refused = find_pictures(options.what, options.pictures), False
    known = find_mnist(Path()) | by_digest(find_new(Path()))
    for label, picture in pairs:
        try:
            print(f"{picture}: {add(Path(), read_digit(picture), label, known)}")
        except InputError as error:
            print(f"error: {picture}: {error}", file=sys.stderr)
            refused = True  # the others are added all the same
    sys.exit(2 if refused else 0)


def find_pictures(what: str, pictures: list[Path]) -> list[tuple[int, Path]]:
    """Label and file of each picture; InputError for neither a label with pictures nor a folder."""
    if what in "0123456789" and len(what) == 1 and pictures:
        return [(int(what), picture) for picture in pictures]
    if not pictures and (found := sorted(Path(what).glob("[0-9]/[!.]*"))):
        return [(int(picture.parent.name), picture) for picture in found]
    expected = "expected a label 0 to 9 and pictures, or a folder with subfolders 0 to 9"
    raise InputError(f"{what}: {expected}")


def find_mnist(root: Path) -> Known:
    """MNIST's images in a checkout, if they are downloaded."""
    known: Known = {}
    for path in filter(Path.exists, (root / TRAIN_IMAGES, root / TEST_IMAGES)):
        images = enumerate(read_idx(path, SHAPE))
        known |= {digest(image): f"MNIST ({path.name}, {at})" for at, image in images}
    return known


def by_digest(names: Iterable[str]) -> Known:
    """The files of new images, by the digest in their names."""
    return {Path(name).stem[2:]: name for name in names if name.endswith(".png")}


def add(root: Path, image: NDArray[np.uint8], label: int, known: Known) -> Path:
    """Put an image (28, 28) where it belongs; InputError if it is known, under whatever label."""
    path = place(image, label)
    if where := known.get(digest(image)):
        raise InputError(f"expected a new image, found it in {where}")
    write_atomically(root / path, encode(image))
    known[digest(image)] = str(path)
    return path
