"""What people correct on the page waits here, one file an image, until it is collected."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mnist_pipeline.files import InputError, Record, write_atomically
from mnist_pipeline.new_images import digest, encode

SPOOL = Path("data/spool")


class AppParams(Record):
    spool: int = Field(ge=0, le=100_000, description="corrections that may wait to be collected")


def keep(image: NDArray[np.uint8], label: int, most: int) -> None:
    """Keep an image (28, 28) under its label; for the same pixels the last label counts.

    One writer at a time. Raises InputError if `most` images wait already.
    """
    path = SPOOL / f"{label}-{digest(image)}.png"
    before = set(SPOOL.glob(f"[0-9]{path.name[1:]}"))
    if not before and sum(1 for _ in SPOOL.glob("*.png")) >= most:
        raise InputError(f"expected fewer than {most:,} waiting corrections, found that many")
    with suppress(FileNotFoundError):  # it was collected meanwhile
        for other in before:
            other.replace(path)  # the same pixels; a kill leaves one label or the other
    write_atomically(path, encode(image))
