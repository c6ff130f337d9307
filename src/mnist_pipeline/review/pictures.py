"""Learning curves, confusions and new images of two results; drawn without a network."""

import csv
import io
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from mnist_pipeline.files import HISTORY, NEW_TEST, InputError, read_text, write_atomically
from mnist_pipeline.review.result import Answer, find_new, read_result

Curves = dict[str, list[float]]
LOSSES = {"train_loss": "training loss", "validation_loss": "validation loss"}
ACCURACY = {"validation_accuracy": "validation accuracy"}
SHOWN, ACROSS = 300, 15  # new images in all, and in a row
LOOKS = (("0.55", "--", 3), ("tab:blue", "-", 2))  # base and head: color, line, height


def illustrate(folders: list[Path], target: Path) -> list[str]:
    """Draw curves, confusions and added images; returns a line for each that could not be drawn."""
    faults = []
    for draw in (learning_curves, confusion, new_images):
        path = target / f"{draw.__name__}.png"
        path.unlink(missing_ok=True)  # of an earlier report
        try:
            if figure := draw(folders):
                write(path, figure)
        except (InputError, OSError, SyntaxError, ValueError) as error:  # Pillow's, for no PNG
            faults.append(f"{path.name}: {error}")
    return faults


def write(path: Path, figure: Figure) -> None:
    """Write a figure as a PNG file."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())


def new_images(folders: list[Path]) -> Figure | None:
    """The first images that only one side has, each under its label there.

    One that got another label is there twice: as removed, then as added.
    """
    before, after = map(find_new, folders)
    names = sorted(before ^ after, key=lambda name: (Path(name).name[1:], name in after))
    if not names:
        return None
    rows = -(-len(names[:SHOWN]) // ACROSS)
    figure = Figure(figsize=(0.7 * ACROSS, 0.95 * rows + 0.5), dpi=110, layout="constrained")
    counts = f"{len(after - before):,} images added (blue: to test with)"
    figure.suptitle(f"{counts}, {len(before - after):,} removed (red); each under its label")
    for axis in (axes := figure.subplots(rows, ACROSS, squeeze=False).ravel()):
        axis.axis("off")
    for axis, name in zip(axes, names[:SHOWN], strict=False):
        axis.imshow(imread(folders[name in after] / name), cmap="gray_r", vmin=0, vmax=1)
        color = "tab:blue" if name.startswith(str(NEW_TEST)) else "black"
        axis.set_title(Path(name).name[0], color=color if name in after else "tab:red")
    return figure


def read_history(folder: Path) -> Curves:
    """The columns of metrics/history.csv, a value an epoch; NaN where there is none.

    Raises InputError where it is malformed.
    """
    names = ["epoch", *LOSSES, *ACCURACY]
    try:
        rows = list(csv.DictReader(read_text(folder / HISTORY).splitlines()))
        return {name: [float(row[name] or "nan") for row in rows] for name in names}
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        expected = f"columns {', '.join(names)} with numbers"
        raise InputError(f"{HISTORY}: expected {expected}, found: {error}") from error


def learning_curves(folders: list[Path]) -> Figure:
    """Losses on the left, validation accuracy on the right, by epoch."""
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for side, (color, line, height) in zip(folders, LOOKS, strict=True):
        curves = read_history(side)
        for (column, what), marker in zip((LOSSES | ACCURACY).items(), "xoo", strict=True):
            axis: Axes = right if column in ACCURACY else left
            (curve,) = axis.plot(curves["epoch"], curves[column], marker, color=color, ms=4)
            curve.set(label=f"{side.name}, {what}", linestyle=line, zorder=height)
    for axis, title in ((left, "Mean negative log-likelihood"), (right, "Validation accuracy")):
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(axis="x", integer=True)
        axis.legend()
    return figure


def confusion(folders: list[Path]) -> Figure:
    """How often each class was taken for each other one: a row a label, a column a prediction."""
    results = [read_result(folder) for folder in folders]
    counts = [Counter(result.errors.values()) for result in results]
    most = max([1, *(count for each in counts for count in each.values())])
    figure = Figure(figsize=(11.2, 5.4), dpi=110, layout="constrained")
    for axis, folder, result, count in zip(
        figure.subplots(1, 2), folders, results, counts, strict=True
    ):
        names = list(result.metrics.recall)
        table = [[count[Answer(label, predicted)] for predicted in names] for label in names]
        axis.imshow(table, cmap="Blues", vmin=0, vmax=most)
        for (row, column), number in np.ndenumerate(table):
            color = "white" if number > 0.6 * most else "black"
            axis.text(column, row, f"{number or ''}", ha="center", va="center", color=color)
        title = f"{folder.name}: {count.total():,} errors"
        axis.set(title=title, xlabel="predicted", ylabel="label")
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
    return figure
