"""Learning curves and confusions of two results, side by side; drawn without a network."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mnist_pipeline.results import Result, read
from mnist_pipeline.stage import InputError, write_atomically

HISTORY = "metrics/history.csv"
EPOCHS = 10_000
Curves = dict[str, list[float]]
LOSSES = {"train_loss": "training loss", "validation_loss": "validation loss"}
ACCURACY = {"validation_accuracy": "validation accuracy"}
LOOKS = {"base": ("0.55", "--"), "head": ("tab:blue", "-")}  # color, line


def draw(histories: dict[str, Curves], results: dict[str, Result], folder: Path) -> list[str]:
    """Write a PNG of what there is to see of "base" and "head"; the names of the files.

    Raises InputError where the folder cannot be written to.
    """
    pictures = {}
    if histories:
        pictures["learning_curves.png"] = learning_curves(histories)
    if results:
        pictures["confusion.png"] = confusions(results)
    for name, figure in pictures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": None})
        write_atomically(folder / name, content.getvalue())
    return [str(folder / name) for name in pictures]


def read_history(folder: Path) -> Curves:
    """The columns of metrics/history.csv, a value an epoch; NaN where there is none.

    Raises InputError where it is missing or malformed.
    """
    try:
        rows = list(csv.reader(read(folder, HISTORY).splitlines()))
    except csv.Error as error:
        raise InputError(f"{HISTORY}: expected comma-separated values, found: {error}") from error
    head, body = rows[0] if rows else [], rows[1:]
    names = ["epoch", *LOSSES, *ACCURACY]
    if not set(names) <= set(head) or not 0 < len(body) <= EPOCHS:
        what = f"columns {', '.join(names)} and 1 to {EPOCHS:,} rows"
        raise InputError(f"{HISTORY}: expected {what}, found {','.join(head)[:80]!r}, {len(body)}")
    try:
        return {
            name: [_number(value) for value in values]
            for name, *values in zip(head, *body, strict=True)
        }
    except ValueError as error:
        raise InputError(f"{HISTORY}: expected numbers in rows of equal length: {error}") from error


def _number(text: str) -> float:
    """A value of the table; ValueError unless it is empty or one that can be drawn."""
    number = float(text) if text else 0.0
    if not abs(number) < 1e9:
        raise ValueError(f"{text[:80]!r} is out of range")
    return number if text else math.nan


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
    """How often each digit was taken for which other one."""
    tables = {side: confusion(result) for side, result in results.items()}
    most = max(max(map(max, table)) for table in tables.values())
    figure = Figure(figsize=(5.6 * len(tables), 5.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(tables), squeeze=False)[0]
    for axis, (side, table) in zip(axes, tables.items(), strict=True):
        axis.imshow(table, cmap="Blues", vmin=0, vmax=max(most, 1))
        for label, predicted in ((row, column) for row in range(10) for column in range(10)):
            if count := table[label][predicted]:
                color = "white" if count > 0.6 * most else "black"
                axis.text(predicted, label, f"{count}", ha="center", va="center", color=color)
        axis.set(
            title=f"{side}: {sum(map(sum, table)):,} errors", xlabel="predicted", ylabel="label"
        )
        axis.set(xticks=range(10), yticks=range(10))
    return figure


def confusion(result: Result) -> Sequence[Sequence[int]]:
    """Errors as counts: a row for each true digit, a column for each predicted one."""
    table = [[0] * 10 for _ in range(10)]
    for label, predicted in result.errors.values():
        table[label][predicted] += 1
    return table
