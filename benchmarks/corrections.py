"""make bench-corrections: what one training learns from ways of writing that MNIST hardly knows.

Ten ways are drawn by code, twenty drawings of each, and are added as new images in a clone, where
the committed training is run once. The table and a picture go into docs/. Needs `dvc repro`.

A stroke is a list of points on a sheet from 0 to 1, joined by a smooth curve, or by straight lines
where a kind has corners. Each drawing has other points, another slant, size and pen.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import make_interp_spline

from mnist_pipeline.files import ONNX, write_atomically
from mnist_pipeline.new_images import encode, place
from mnist_pipeline.review.audit import reproduce
from mnist_pipeline.review.git import clone
from mnist_pipeline.review.pictures import write as write_picture
from mnist_pipeline.review.result import read_result
from mnist_pipeline.review.statistics import Comparison, compare
from mnist_pipeline.use.digit import to_mnist

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/new_images.md"
BEGIN, END = "<!-- corrections: make bench-corrections -->\n", "<!-- end of corrections -->\n"

Stroke = list[tuple[float, float]]  # (x, y), y down
SHEET, EACH = 280, 20  # pixels; drawings of a kind

# Name: the digit, whether its strokes are smooth, the strokes.
RING: Stroke = [
    (0.5, 0.16), (0.3, 0.3), (0.28, 0.65), (0.48, 0.84), (0.7, 0.68), (0.72, 0.34), (0.5, 0.16)
]  # fmt: skip
KINDS: dict[str, tuple[int, bool, list[Stroke]]] = {
    "zero with a bar": (0, True, [RING, [(0.2, 0.5), (0.8, 0.5)]]),
    "one like a roof": (1, False, [[(0.22, 0.7), (0.55, 0.16), (0.6, 0.84)]]),
    "one with flag and foot": (
        1, False, [[(0.2, 0.5), (0.54, 0.16), (0.54, 0.82)], [(0.2, 0.82), (0.86, 0.82)]]
    ),
    "two with its tail up": (
        2, True, [[(0.24, 0.5), (0.34, 0.2), (0.5, 0.3), (0.4, 0.7), (0.56, 0.82), (0.76, 0.5)]]
    ),
    "four closed": (
        4, False,
        [[(0.62, 0.2), (0.32, 0.2), (0.32, 0.5), (0.66, 0.5)], [(0.64, 0.16), (0.64, 0.84)]],
    ),
    "five like lightning": (5, False, [[(0.66, 0.14), (0.4, 0.5), (0.62, 0.5), (0.36, 0.88)]]),
    "six like a sigma": (
        6, True, [[(0.76, 0.2), (0.4, 0.22), (0.28, 0.55), (0.5, 0.8), (0.68, 0.58), (0.4, 0.36)]]
    ),
    "seven, crossed": (
        7, False,
        [[(0.28, 0.3), (0.3, 0.2), (0.72, 0.2), (0.42, 0.82)], [(0.34, 0.52), (0.7, 0.48)]],
    ),
    "eight lying down": (
        8, True, [[(0.5, 0.5), (0.3, 0.36), (0.16, 0.5), (0.3, 0.64), (0.5, 0.5), (0.7, 0.36),
                   (0.84, 0.5), (0.7, 0.64), (0.5, 0.5)]]
    ),
    "nine with a loop": (
        9, True, [[(0.66, 0.24), (0.46, 0.14), (0.36, 0.28), (0.5, 0.4), (0.67, 0.26), (0.68, 0.6),
                   (0.5, 0.88), (0.32, 0.76), (0.66, 0.56)]]
    ),
}  # fmt: skip


def draw(strokes: list[Stroke], smooth: bool, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The strokes as a person with a mouse would repeat them, in MNIST's form, (28, 28)."""
    slant, turn = rng.normal(0, 0.12), rng.normal(0, 0.08)
    shape = np.array([[1, slant], [turn, 1]]) * rng.uniform(0.75, 1.15, (2, 1))
    sheet, width = Image.new("L", (SHEET, SHEET), 255), int(rng.integers(12, 26))
    pen = ImageDraw.Draw(sheet)
    for stroke in strokes:
        points = np.array(stroke) + rng.normal(0, 0.022, (len(stroke), 2))
        if smooth:
            steps = np.linspace(0, 1, len(points))
            points = make_interp_spline(steps, points, k=min(3, len(points) - 1))(
                np.linspace(0, 1, 60)
            )
        line = [tuple(point) for point in ((points - 0.5) @ shape.T * 0.8 + 0.5) * SHEET]
        pen.line(line, fill=0, width=width, joint="curve")
        for x, y in (line[0], line[-1]):
            pen.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=0)
    return to_mnist(sheet)


def corrections() -> Iterator[tuple[str, int, NDArray[np.uint8]]]:
    """All 200: kind, label, image (28, 28)."""
    rng = np.random.default_rng(0)
    for kind, (label, smooth, strokes) in KINDS.items():
        for _ in range(EACH):
            yield kind, label, draw(strokes, smooth, rng)


def show() -> None:
    """Draw docs/corrections.png, a row for each kind."""
    rows: dict[str, list[NDArray[np.uint8]]] = {}
    for kind, _, image in corrections():
        rows.setdefault(kind, []).append(image)
    figure = Figure(figsize=(10, 4.6), dpi=90, layout="constrained")
    axes = figure.subplots(len(rows), 1)
    for axis, (kind, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(np.hstack(images), cmap="gray_r", vmin=0, vmax=255)
        axis.set_ylabel(kind, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[], frame_on=False)
    write_picture(PAGE.with_name("corrections.png"), figure)


def main() -> None:
    show()
    base = read_result(ROOT)
    session = onnxruntime.InferenceSession(ROOT / ONNX)
    with tempfile.TemporaryDirectory() as name:
        folder = clone(str(ROOT), Path(name) / "clone", ROOT / ".dvc/cache")
        kinds = {}
        for kind, label, image in corrections():
            path = place(image, label)
            write_atomically(folder / path, encode(image))
            (answer,) = session.run(None, {"images": image[None]})
            kinds[path.name] = (kind, int(answer.argmax()) == label)
        reproduce(folder, "repro", "evaluate")
        result = read_result(folder)
    tested = {name: answer for name, answer in result.new.items() if name in kinds}
    rows = pd.DataFrame(
        [(*kinds[name], answer.label == answer.predicted) for name, answer in tested.items()],
        columns=["kind", "before", "after"],
    )
    write(rows, compare(base, result), result.metrics.accuracy)


def write(rows: pd.DataFrame, mnist: Comparison, accuracy: float) -> None:
    """Write the table of docs/new_images.md, from a row for each new test image."""
    lines = ["| kind | tested | right before | right after |", "|---|---|---|---|"]
    for kind, those in rows.groupby("kind", sort=False):
        lines.append(f"| {kind} | {len(those)} | {those.before.sum()} | {those.after.sum()} |")
    total = f"**{rows.before.sum()}** | **{rows.after.sum()}**"
    lines.append(f"| all | {len(rows)} | {total} |")
    counts = f"{len(mnist.fixed)} fixed, {len(mnist.broken)} broken, p = {mnist.p_value:.2g}"
    lines.append(f"\nMNIST's test images beside it: {accuracy:.2%}; {counts}.")
    head, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
