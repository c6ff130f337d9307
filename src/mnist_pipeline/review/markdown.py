"""Render a report that was printed with --json as Markdown, inert whatever it says.

The report may come from a stranger's change. All its texts are shown as code spans, in which GitHub
makes no HTML, mentions, links or references, and only with printable characters.
"""

import argparse
import re
import unicodedata
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mnist_pipeline.files import NEW_TEST, InputError
from mnist_pipeline.review.schema import Change, Evidence, NewImages, Report, Side, Spread

ROWS = 30  # shown of a table; the data may have more
VISIBLE = "LNPS"  # Unicode's letters, numbers, punctuation, symbols: no controls, no bidi, no marks


def main() -> None:
    """Print a report's file, which a stranger may have written, as Markdown."""
    parser = argparse.ArgumentParser(description="Print a report as Markdown.")
    parser.add_argument("file", type=Path, help="what the report printed with --json")
    parser.add_argument("--head", required=True, help="the commit that the report must be about")
    options = parser.parse_args()
    print(render(read_report(options.file, options.head)), end="")


def read_report(path: Path, head: str) -> Report:
    """The report in a file; InputError if it is malformed or about another commit."""
    try:
        report = Report.model_validate_json(path.read_bytes())
    except ValidationError as error:
        # The log must not repeat what a stranger wrote: GitHub obeys commands in it.
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = re.sub(r"[^\w.]", "?", ".".join(map(str, fault["loc"])), flags=re.ASCII)[:80]
        what = f"{fault['type']} at {where or 'the top'}"
        raise InputError(f"{path}: expected a report, found {what}") from None
    if report.head.commit != head:
        raise InputError(f"{path}: expected a report on {head}, found {report.head.commit}")
    return report


def render(report: Report) -> str:
    """The report for people: at most 60,000 characters, nothing in it that acts."""
    sides = [f"{code(side.name)} ({code(side.commit[:7])})" for side in (report.head, report.base)]
    found = report.evidence
    parts = [
        warn("dvc.lock", report.head),
        warn("the base's dvc.lock", report.base),
        verdict(report),
        f"{sides[0]} against {sides[1]}",
        *(explain(found, report.spread) if found else []),
        *(explain_new(report.new) if report.new else []),
    ]
    flips = [[each.index, each.label, each.old, each.new] for each in report.flips]
    changes = [[each.file, each.name, each.old, each.new, shift(each)] for each in report.changes]
    stages = [[each.name, each.changed, each.after] for each in report.stages]
    parts += [
        tabulate("What differs", "file name base head change", changes),
        tabulate("Images fixed and broken", "index label base head", flips),
        tabulate("Stages affected", "stage changed follows", stages),
        *(f"Could not be read: {code(note, 200)}" for note in report.notes[:10]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def warn(what: str, side: Side) -> str:
    """A warning if a result does not belong to its code, else an empty text."""
    if side.stale is None:
        return f"**Warning: whether {what} is stale is not known.**"
    if not side.stale:
        return ""
    why = "It does not belong to the files beside it; `dvc repro` brings it up to date:"
    head = f"**Warning: {what} is stale.** {why}"
    return "\n".join([head, "", *(f"- {code(each, 200)}" for each in side.stale[:ROWS])])


def verdict(report: Report) -> str:
    """The verdict in one line: on these weights, and on what another seed would do."""
    found, word = report.evidence, report.verdict.capitalize()
    if found is None:
        return f"**{word}**: {code(report.reason, 200)}"
    where = "between" if word.startswith("No") else "in"
    line = f"**{word} {where} these weights** ({describe(found)})"
    if report.spread is None:
        return f"{line}, seed-to-seed spread of this configuration not measured (`make noise`)"
    beyond = abs(found.fixed - found.broken) / found.total > report.spread.reach
    return f"{line}, {'beyond' if beyond else 'within'} what another seed does"


def explain(found: Evidence, spread: Spread | None) -> list[str]:
    """What the verdict rests on, in plain sentences."""
    differ, total = found.fixed + found.broken, f"{found.total:,} test images"
    if found.interval is None:
        return [f"Both models get exactly the same of the {total} wrong."]
    low, high = map(points, found.interval)
    counts = (
        f"The models disagree on {differ:,} of {total}: this change fixes {found.fixed:,} and"
        f" breaks {found.broken:,}. If the change did nothing, a split this uneven would come up"
        f" {often(found.p_value)} (exact McNemar test, p = {probability(found.p_value)})."
    )
    size = (
        f"The accuracy changes by {points((found.fixed - found.broken) / found.total)} percentage"
        f" points on these images. On other images, if {differ:,} differ as well, it may change by"
        f" anything from {low} to {high} ({1 - found.alpha:.0%} confidence interval)."
    )
    least = "So few images differ that no split would be evidence of a difference."
    if found.least:
        split = f"at least {found.least:,} of the {differ:,} must go the same way"
        least = f"To be evidence of a difference (p < {found.alpha:g}), {split}."
    return [counts, size, least, *([explain_spread(spread)] if spread else [])]


def explain_new(new: NewImages) -> list[str]:
    """The verdict on the new test images, and which images came, went or got another label."""
    judged, found = "", new.evidence
    if found:
        where = f"the {found.total:,} new test images that both models answered"
        judged = f"**{new.verdict.capitalize()}** on {where} ({describe(found)})"
    before, after = map(label_by_pixels, (new.removed, new.added))
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    tests = sum(name.startswith(str(NEW_TEST)) for name in added)
    counts = (
        f"New images added: {len(added) - tests:,} to train with, {tests:,} to test with;"
        f" removed: {len(removed):,}; with another label: {len(before) - len(removed):,}."
    )
    rows = [[name, before.get(name), after.get(name)] for name in sorted(before | after)]
    return [judged, counts if rows else "", tabulate("New images", "image base head", rows)]


def label_by_pixels(names: list[str]) -> dict[str, str]:
    """The labels of new images, by their names without the label."""
    return {str(Path(name).parent / Path(name).name[2:]): Path(name).name[:1] for name in names}


def describe(found: Evidence) -> str:
    """A comparison in numbers."""
    return f"{found.fixed:,} fixed, {found.broken:,} broken, p = {probability(found.p_value)}"


def often(p_value: float) -> str:
    """A p-value in words, such as "4 times in 100"."""
    if p_value < 0.001:
        return "less than once in 1,000 times"
    if p_value == 1:
        return "every time"
    of = 1000 if p_value < 0.01 else 100
    times = round(of * p_value)
    return f"{'once' if times == 1 else f'{times:,} times'} in {of:,}"


def probability(p_value: float) -> str:
    """A p-value with three digits, or as many as show on which side of 0.05 it lies."""
    texts = (f"{p_value:.{digits}g}" for digits in count(3))
    return next(text for text in texts if (float(text) < 0.05) == (p_value < 0.05))


def points(difference: float) -> str:
    """A difference of accuracies in percentage points; only 0 itself is shown as 0.00."""
    by = 100 * difference
    return (f"{by:+.2f}" if not 0 < abs(by) < 0.005 else f"{by:+.1g}").replace("-", "−")


def explain_spread(spread: Spread) -> str:
    """How far other seeds move the accuracy, and how often they deceive the test."""
    most = min(1, spread.reach)  # two or three seeds say so little that the estimate may be above
    return (
        f"Another seed alone moves the accuracy by up to {100 * most:.2f} points (95 times"
        f" in 100, estimated from {spread.runs:,} seeds with a standard deviation of"
        f" {100 * spread.standard_deviation:.3f} points). Of {spread.pairs:,} pairs of seeds, the"
        f" test calls {spread.false_alarms:,} different."
    )


def tabulate(title: str, head: str, rows: list[list[Any]]) -> str:
    """The first rows under a title, and how many more there are; empty without a row."""
    if not rows:
        return ""
    lines = [["---"] * len(head.split()), *([cell(each) for each in row] for row in rows[:ROWS])]
    text = "\n".join(f"| {' | '.join(line)} |" for line in [head.split(), *lines])
    more = f"\n\nand {len(rows) - ROWS:,} more" if len(rows) > ROWS else ""
    return f"### {title}\n\n{text}{more}"


def cell(value: Any) -> str:
    """A value as a table's cell: texts as code, numbers with at most six digits."""
    if isinstance(value, list):
        return code(", ".join(value), 200) if value else "–"
    if isinstance(value, str):
        return code(value)
    if value is None or isinstance(value, bool):
        return "–" if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def shift(change: Change) -> str | None:
    """How far a number changed; None if a value is not a number."""
    old, new = change.old, change.new
    if isinstance(old, bool | str | None) or isinstance(new, bool | str | None):
        return None
    by = new - old
    size = f"{by:+,}" if isinstance(by, int) else f"{by:+.3g}"
    return size.replace("-", "−", 1)


def code(text: str, width: int = 80) -> str:
    """A text as a code span of one line, at most `width` characters wide."""
    shown = "".join(
        character if character == " " or unicodedata.category(character)[0] in VISIBLE else "�"
        for character in unicodedata.normalize("NFC", text)
    ).translate({ord("`"): "'", ord("|"): "¦"})  # these would end the span, or a table's cell
    return f"`{shown[: width - 1] + '…' if len(shown) > width else shown or ' '}`"
