"""The report as Markdown that stays inert whatever its data says.

The data may come from a stranger's change. Whatever of it is text is shown as a code span, where
GitHub knows neither HTML nor mentions, links or references, and only with characters that show.
"""

import unicodedata
from collections.abc import Callable
from typing import TypeVar

from mnist_pipeline.schema import Change, Evidence, Flip, Report, Side, Spread, Stage

ROWS = 30  # shown of a table; the data may have more
FEW = 4  # names shown in a cell
VISIBLE = "LNPS"  # Unicode's letters, numbers, punctuation, symbols: no controls, no bidi, no marks

Rows = list[list[str]]
Item = TypeVar("Item")


def markdown(report: Report) -> str:
    """The report for people: at most 60,000 characters, nothing in it that acts."""
    found, same = report.evidence, []
    parts = [stale("dvc.lock", report.head), stale("the base's dvc.lock", report.base)]
    parts += [verdict(report), evidence(found, report.spread) if found else ""]
    for title, head, rows in sections(report):
        if rows:
            more = max(0, getattr(found, title.split()[-1], 0) - len(rows))
            parts.append(f"### {title}\n\n{table(head, rows, more)}")
        elif rows is not None:
            same.append(title.lower())
    parts += [f"Nothing to show for: {', '.join(same)}."] if same else []
    parts += [f"Could not be read: {code(note, 200)}" for note in report.notes]
    parts += [f"Picture: {code(name)}" for name in report.pictures]
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(report: Report) -> list[tuple[str, str, Rows | None]]:
    """Each table's title, its columns and its rows; None for what could not be read."""
    judged, sides = report.evidence is not None, "name base head"
    return [
        ("Metrics", f"{sides} change", each(metric, report.metrics)),
        ("Parameters", sides, each(value, report.parameters)),
        ("Environment", sides, each(value, report.environment)),
        ("Images fixed", "index label base head", [*map(flip, report.fixed)] if judged else None),
        ("Images broken", "index label base head", [*map(flip, report.broken)] if judged else None),
        ("Stages affected", "stage changed after", each(stage, report.stages)),
    ]


def code(text: str, width: int = 80) -> str:
    """A text as a code span of one line, at most so many characters wide."""
    shown = "".join(
        character if character == " " or unicodedata.category(character)[0] in VISIBLE else "�"
        for character in unicodedata.normalize("NFC", text)
    ).translate({ord("`"): "'", ord("|"): "¦"})  # these would end the span, or a table's cell
    return f"`{shown[: width - 1] + '…' if len(shown) > width else shown or ' '}`"


def points(difference: float) -> str:
    """A difference of accuracies in percentage points."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def stale(what: str, side: Side) -> str:
    """The warning that a result is not of its code; empty where it is."""
    if side.stale is None:
        return f"**Warning: whether {what} is stale is not known.**"
    if not side.stale:
        return ""
    rest = [f"- and {len(side.stale) - ROWS} more"] if len(side.stale) > ROWS else []
    head = f"**Warning: {what} is stale.** The numbers are not of this code and these parameters:"
    return "\n".join([head, "", *(f"- {code(each, 200)}" for each in side.stale[:ROWS]), *rest])


def verdict(report: Report) -> str:
    """The verdict with the counts behind it, in one line; and what was compared."""
    line, found = f"**{report.verdict.capitalize()}**", report.evidence
    if report.reason:
        line += f": {report.reason}" + (f": {code(report.detail, 200)}" if report.detail else "")
    elif found:
        difference = points((found.fixed - found.broken) / max(found.total, 1))
        images = "image" if found.fixed == 1 else "images"
        line += f": {found.fixed:,} {images} fixed, {found.broken:,} broken of {found.total:,}"
        line += f" ({difference} points), p = {found.p_value:.2g}"
    sides = [f"{code(side.name)} ({code(side.commit[:7])})" for side in (report.head, report.base)]
    return f"{line}\n\n{sides[0]} against {sides[1]}"


def evidence(found: Evidence, spread: Spread | None) -> str:
    """What the test says, what it could have seen, and what another seed would do."""
    differ, lines = found.fixed + found.broken, ["Exact McNemar test on the images that differ"]
    lines[0] += f" ({differ:,}), at {found.alpha:g}: p = {found.p_value:.2g}."
    if found.interval:
        low, high = map(points, found.interval)
        lines[0] += f" {1 - found.alpha:.0%} interval of the difference: {low} to {high} points."
    if found.least is None:
        lines.append("With so few, the test sees nothing, however they split.")
    else:
        other, more = differ - found.least, 2 * found.least - differ
        least = f"{found.least:,} to {other:,} is the least that counts: {more:,} images"
        lines.append(f"With so many, {least}, {100 * more / max(found.total, 1):.2f} points.")
    return "  \n".join([*lines, seeds(found, spread)])


def seeds(found: Evidence, spread: Spread | None) -> str:
    """Whether the difference exceeds what another seed does."""
    if spread is None:
        return "Seed-to-seed spread: not measured for this configuration (`make noise`)."
    difference = abs(found.fixed - found.broken) / max(found.total, 1)
    beyond = "exceeds" if difference > spread.reach else "does not exceed"
    return (
        f"The difference {beyond} the seed-to-seed spread: another seed moves accuracy by up to"
        f" {100 * spread.reach:.2f} points ({spread.runs:,} seeds, standard deviation"
        f" {100 * spread.standard_deviation:.3f}); the test alone calls {spread.false_alarms:,} of"
        f" {spread.pairs:,} such pairs different."
    )


def table(head: str, rows: Rows, more: int) -> str:
    """The first rows, whose cells are inert already, and how many more there are."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head.split(), *rows[:ROWS])]
    lines.insert(1, "|---" * len(head.split()) + "|")
    more += len(rows[ROWS:])
    return "\n".join([*lines, *([f"\nand {more:,} more"] if more else [])])


def each(cells: Callable[[Item], list[str]], items: list[Item] | None) -> Rows | None:
    """A row for each item; None for None."""
    return None if items is None else [cells(item) for item in items]


def flip(image: Flip) -> list[str]:
    """An image, its label, and what either model takes it for."""
    return [str(number) for number in (image.index, image.label, image.old, image.new)]


def metric(found: Change) -> list[str]:
    """A metric, rounded, and whether it differs for the better."""
    return [*value(found, rounded), change(found)]


def value(found: Change, number: Callable[[float], str] = str) -> list[str]:
    """A name, the old and the new value."""
    cells = [code(found.name)]
    for side in (found.old, found.new):
        if side is None or isinstance(side, bool):
            cells.append("–" if side is None else str(side).lower())
        else:
            cells.append(code(side) if isinstance(side, str) else number(side))
    return cells


def stage(found: Stage) -> list[str]:
    """A stage, its inputs that differ, and the stages before it that are affected."""
    return [code(found.name), names(found.changed), names(found.after)]


def rounded(number: float) -> str:
    """A number for people: four digits."""
    return f"{number:,}" if isinstance(number, int) else f"{number:.4g}"


def change(found: Change) -> str:
    """The difference between two numbers, and whether it is for the better."""
    old, new = found.old, found.new
    if not isinstance(old, int | float) or not isinstance(new, int | float):
        return ""
    whole = isinstance(old, int) and isinstance(new, int)
    number = f"{new - old:+,}" if whole else f"{new - old:+.2g}"
    words = {None: "", True: ", better", False: ", worse"}
    return number.replace("-", "−", 1) + words[found.better]


def names(found: list[str]) -> str:
    """The first few of some names."""
    more = [f"{len(found) - FEW} more"] if len(found) > FEW else []
    return ", ".join([*map(code, found[:FEW]), *more])
