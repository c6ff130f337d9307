"""make bench-pictures: what a digit loses on its way through a picture, and how long predict takes.

The test images of MNIST are put on a canvas, or photographed (imitated here: light from one side,
noise, blur, a turn, JPEG), and go through the same code as anybody's picture. The table goes into
pictures.md. Needs models/mnist_cnn.onnx and data/MNIST (dvc repro).
"""

import io
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from mnist_pipeline.files import InputError
from mnist_pipeline.use import network
from mnist_pipeline.use.digit import read_digit

TABLE = Path(__file__).resolve().parent / "pictures.md"
MODEL = Path("models/mnist_cnn.onnx")
DIGITS, ROUNDS = 2_000, 7
CANVAS, ENLARGED = 400, 168  # pixels: six times 28
TABLE_SHOWN = 120  # pixels of the table that a careless photo shows, both sides together
TORCH = """import torch
from mnist_pipeline.model import Net, normalize
net = Net()
net.load_state_dict(torch.load("models/mnist_cnn.pt", weights_only=True))
net.eval()
print(net(normalize(torch.zeros(1, 28, 28, dtype=torch.uint8))).argmax())
"""

Digit = NDArray[np.uint8]  # (28, 28)


def canvas(digit: Digit, rng: np.random.Generator) -> Image.Image:
    """The digit six times as large, white on black, somewhere on 400 × 400."""
    large = Image.fromarray(digit).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
    field = Image.new("L", (CANVAS, CANVAS))
    left, top = rng.integers(0, CANVAS - ENLARGED, 2)
    field.paste(large, (int(left), int(top)))
    return field


def photo(
    digit: Digit, rng: np.random.Generator, table: int = 0, shadow: bool = False, hand: bool = False
) -> bytes:
    """The canvas turned by up to 10°, in ink on paper or chalk on slate, in bad light, as JPEG.

    `table` adds that many pixels of a table around it, of a colour between the two. `shadow` adds
    the edge of a shadow across it, which takes 20 to 60 % of the light. `hand` adds a fingertip at
    the rim, on the side where the digit is not.
    """
    turned = canvas(digit, rng).rotate(rng.uniform(-10, 10), Image.Resampling.BICUBIC)
    ink = np.asarray(turned, dtype=np.float64) / 255
    across = rng.normal(size=2)
    colours = [rng.uniform(160, 235), rng.uniform(20, 80)]  # paper and ink
    if rng.random() < 0.5:
        colours.reverse()
    grey = colours[0] + (colours[1] - colours[0]) * ink
    if table:
        left, top = rng.integers(0, table, 2)
        around = ((top, table - top), (left, table - left))
        grey = np.pad(grey, around, constant_values=rng.uniform(*sorted(colours)))
    y, x = np.indices(grey.shape) / len(grey) - 0.5
    if hand:
        rim = 0.5 if np.average(x, weights=ink) < 0 else -0.5
        finger = np.hypot(x - rim, y - rng.uniform(-0.5, 0.5)) < rng.uniform(0.05, 0.15)
        grey[finger] = rng.uniform(*sorted(colours))
    grey *= 1 + 0.7 * (across[0] * x + across[1] * y) / np.hypot(*across)
    if shadow:
        angle, far, light = rng.uniform([0, -0.35, 0.4], [2 * np.pi, 0.35, 0.8])
        grey[np.cos(angle) * x + np.sin(angle) * y > far] *= light
    soft = as_picture(grey).filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 2)))
    noisy = np.asarray(soft, dtype=np.float64) + rng.normal(0, 8, grey.shape)
    return encoded(as_picture(noisy), "JPEG")


def pair(one: Digit, other: Digit) -> Image.Image:
    """Two digits side by side, six times as large, white on black, without MNIST's margins."""
    both = np.pad(np.hstack([one[:, 4:24], other[:, 4:24]]), 8)
    return Image.fromarray(both).resize((both.shape[1] * 6, both.shape[0] * 6))


def as_picture(grey: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str) -> bytes:
    """A picture as a file's bytes."""
    content = io.BytesIO()
    picture.save(content, kind, quality=60)
    return content.getvalue()


def count(answer: Callable[[Digit], int], pictures: list[bytes], labels: list[int]) -> str:
    """A row's cells: how many pictures are read as their labels, and how many are refused."""
    right = refused = 0
    for content, label in zip(pictures, labels, strict=True):
        try:
            right += answer(read_digit(io.BytesIO(content))) == label
        except InputError:
            refused += 1
    return f"{right / len(labels):.2%} | {refused}"


def seconds(*command: str) -> float:
    """How long a process takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    from mnist_pipeline.dataset import read_pairs  # noqa: PLC0415 (tests do without torch)
    from mnist_pipeline.mnist import TEST_IMAGES, TEST_LABELS  # noqa: PLC0415

    images, labels = (part[:DIGITS] for part in read_pairs(TEST_IMAGES, TEST_LABELS))
    net, rng = network.load(MODEL.read_bytes(), str(MODEL)), np.random.default_rng(1)

    def answer(image: Digit) -> int:
        return int(net.probabilities(image).argmax())

    drawn = [encoded(canvas(image, rng), "PNG") for image in images]
    taken = [photo(image, rng) for image in images]
    careless = [photo(image, rng, TABLE_SHOWN) for image in images]
    shaded = [photo(image, rng, shadow=True) for image in images]
    held = [photo(image, rng, hand=True) for image in images]
    two = [encoded(pair(*both), "PNG") for both in zip(images, images[::-1], strict=True)]
    originals = np.mean([answer(image) for image in images] == labels)
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.jpg"
        picture.write_bytes(taken[0])
        ours = ("-m", "mnist_pipeline", "predict", str(picture))
        pairs = [(seconds(*ours), seconds("-c", TORCH)) for _ in range(ROUNDS)]
    TABLE.write_text(f"""{DIGITS:,} test images of MNIST; {ROUNDS} rounds; median (least, greatest).

| pictures | accuracy | refused |
|---|---|---|
| the images themselves | {originals:.2%} | – |
| enlarged, somewhere on a canvas | {count(answer, drawn, labels)} |
| photographed | {count(answer, taken, labels)} |
| photographed with {TABLE_SHOWN} pixels of the table | {count(answer, careless, labels)} |
| photographed with the edge of a shadow across | {count(answer, shaded, labels)} |
| photographed with a fingertip at the rim | {count(answer, held, labels)} |
| two digits side by side | – | {count(answer, two, labels).partition("| ")[2]} |

| a process | seconds |
|---|---|
| `predict` with one photo | {spread([ours for ours, _ in pairs])} |
| torch, the network and one empty image | {spread([torch for _, torch in pairs])} |
| ratio, round by round | {spread([torch / ours for ours, torch in pairs])} |
""")
    print(TABLE.read_text())


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
