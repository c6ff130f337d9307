"""Learning curves, confusions and new images of two results; drawn without a network."""

import csv
import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread

from mnist_pipeline.files import HISTORY, NEW_TEST, InputError, read_text, write_atomically
from mnist_pipeline.review.result import Result, find_new, read_result

PICTURES = ("learning_curves.png", "confusion.png", "new_images.png")
Curves = dict[str, list[float]]
LOSSES = {"train_loss": "training loss", "validation_loss": "validation loss"}
ACCURACY = {"validation_accuracy": "validation accuracy"}
SHOWN, ACROSS = 300, 15  # new images
LOOKS = {"base": ("0.55", "--"), "head": ("tab:blue", "-")}  # color, line


def illustrate(folders: list[Path], target: Path) -> list[str]:
    """Draw what both folders have, and the images added; a line for what could not be drawn."""
    faults = []
    for name in PICTURES:  # of an earlier report
        (target / name).unlink(missing_ok=True)
    for name, read, paint in (
        (PICTURES[0], read_history, learning_curves),
        (PICTURES[1], read_result, confusions),
    ):
        found: dict[str, Any] = {}
        for folder in folders:
            try:
                found[folder.name] = read(folder)
            except (InputError, OSError) as error:
                faults.append(f"{name}: {folder.name}: {error}")
        if found:
            write(target / name, paint(found))
    if added := sorted(find_new(folders[1]) - find_new(folders[0])):
        try:
            write(target / PICTURES[2], new_images(folders[1], added))
        except (OSError, SyntaxError) as error:  # which Pillow raises for what is no PNG
            faults.append(f"{PICTURES[2]}: {error}")
    return faults


def write(path: Path, figure: Figure) -> None:
    """A figure as a PNG."""
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomically(path, content.getvalue())


def new_images(folder: Path, names: list[str]) -> Figure:
    """The first images that were added, each under its label, those to test with in blue."""
    rows = -(-len(names[:SHOWN]) // ACROSS)
    figure = Figure(figsize=(0.7 * ACROSS, 0.95 * rows + 0.5), dpi=110, layout="constrained")
    figure.suptitle(f"{len(names):,} images added; label, and in blue those to test with")
    for axis in (axes := figure.subplots(rows, ACROSS, squeeze=False).ravel()):
        axis.axis("off")
    for axis, name in zip(axes, names[:SHOWN], strict=False):
        axis.imshow(imread(folder / name), cmap="gray_r", vmin=0, vmax=1)
        test = name.startswith(str(NEW_TEST))
        axis.set_title(Path(name).name[0], color="tab:blue" if test else "black")
    return figure


def read_history(folder: Path) -> Curves:
    """The columns of metrics/history.csv, a value an epoch; NaN where there is none.

    Raises InputError where it is malformed.
    """
    rows = list(csv.DictReader(read_text(folder / HISTORY).splitlines()))
    names = ["epoch", *LOSSES, *ACCURACY]
    try:
        return {name: [float(row[name] or "nan") for row in rows] for name in names}
    except (KeyError, TypeError, ValueError) as error:
        expected = f"columns {', '.join(names)} with numbers"
        raise InputError(f"{HISTORY}: expected {expected}, found: {error}") from error


def learning_curves(histories: dict[str, Curves]) -> Figure:
    """Losses on the left, validation accuracy on the right, by epoch."""
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    for side, curves in histories.items():
        color, line = LOOKS[side]
        for (column, what), marker in zip((LOSSES | ACCURACY).items(), "xoo", strict=True):
            axis: Axes = right if column in ACCURACY else left
            (curve,) = axis.plot(curves["epoch"], curves[column], marker, color=color, ms=4)
            curve.set(label=f"{side}, {what}", linestyle=line, zorder=3 if side == "base" else 2)
    for axis, title in ((left, "Mean negative log-likelihood"), (right, "Validation accuracy")):
        axis.set(title=title, xlabel="epoch")
        axis.locator_params(axis="x", integer=True)
        axis.legend()
    return figure


def confusions(results: dict[str, Result]) -> Figure:
    """How often each class was taken for which other one."""
    tables = {side: confusion(result) for side, result in results.items()}
    most = max(max(map(max, table)) for table in tables.values())
    figure = Figure(figsize=(5.6 * len(tables), 5.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axis, (side, table) in zip(axes, tables.items(), strict=True):
        axis.imshow(table, cmap="Blues", vmin=0, vmax=max(most, 1))
        for label, row in enumerate(table):
            for predicted, count in enumerate(row):
                color = "white" if count > 0.6 * most else "black"
                axis.text(predicted, label, f"{count or ''}", ha="center", va="center", color=color)
        title = f"{side}: {sum(map(sum, table)):,} errors"
        names = list(results[side].metrics.recall)
        axis.set(title=title, xlabel="predicted", ylabel="label")
        axis.set_xticks(range(len(names)), names)
        axis.set_yticks(range(len(names)), names)
    return figure


def confusion(result: Result) -> list[list[int]]:
    """Errors as counts: a row for each true class, a column for each predicted one."""
    names = list(result.metrics.recall)
    table = [[0] * len(names) for _ in names]
    for label, predicted in result.errors.values():
        table[names.index(label)][names.index(predicted)] += 1
    return table
