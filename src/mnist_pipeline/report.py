"""make report: did this change make the model better or worse, and how sure is that?

PYTHONPATH=src python -m mnist_pipeline.report --base origin/main
"""

import argparse
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mnist_pipeline import stages
from mnist_pipeline.render import markdown
from mnist_pipeline.results import METRICS, PARAMS, Result, flatten, load_json, load_yaml, read
from mnist_pipeline.revisions import baseline, differing, resolve, write_files
from mnist_pipeline.schema import Change, Report, Side, Stage
from mnist_pipeline.stage import InputError, run
from mnist_pipeline.verdict import clip, judge, sound, spread

ENVIRONMENT = "metrics/environment.json"
HIGHER, LOWER = ("accuracy", "correct", "macro_f1", "recall"), ("loss", "ece")  # is better
SIDES = ("base", "head")
Both = tuple[Path, Path]  # folders: the base's, the head's


def main() -> None:
    parser = argparse.ArgumentParser(description="Say whether the metrics changed for real.")
    parser.add_argument("--base", required=True, help="commit or DVC experiment to compare with")
    parser.add_argument("--head", help="commit or DVC experiment; without it, the workspace")
    parser.add_argument("--json", action="store_true", help="print the report as data")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="draw curves and confusions"
    )
    parser.add_argument(
        "--fail-on",
        choices=["regression"],
        help="exit status 1 for a regression, 2 for what could not be judged",
    )
    options = parser.parse_args()
    try:
        report = build(options.base, options.head, options.pictures)
    except (InputError, OSError):
        raise
    except Exception as error:  # status 1 is a regression's alone
        what = f"a bug of the report, or a file that it does not expect: {type(error).__name__}"
        raise InputError(what) from error
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    print(report.model_dump_json() if options.json else markdown(report))
    sys.exit(exit_status(report) if options.fail_on else 0)


def exit_status(report: Report) -> int:
    """1 for a regression, 2 for what could not be judged or not be read; else, 0.

    A stale dvc.lock is no failure: the nightly retraining brings it up to date.
    """
    if report.verdict == "regression":
        return 1
    return 2 if report.verdict == "not comparable" or report.notes else 0


def build(base: str, head: str | None, pictures: Path | None = None) -> Report:
    """Compare a head, or the workspace, with where it left the base.

    Raises InputError for a name that is unknown, where the two have no history in common, and
    where the head is an older state of the base.
    """
    new, asked = resolve(head or "HEAD"), resolve(base)
    old = baseline(asked, new.commit)
    if head and old.commit == new.commit != asked.commit:
        raise InputError(f"{head}: expected a commit that {base} does not have, found one it has")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="mnist_pipeline-report-")))
        both = (
            write_files(old.commit, folder / "base"),
            write_files(new.commit, folder / "head") if head else Path(),
        )
        checks = [begin(each, stack) for each in both]
        notes: list[str] = []
        results = [sound(each) for each in both]
        found = judge(*results) | {"spread": spread(both, notes)}
        found |= look(both, differing(old.commit, new.commit if head else None), notes)
        if pictures:
            found["pictures"] = illustrate(both, results, pictures, notes)
        stale = [outdated(*each, notes) for each in zip(SIDES, both, checks, strict=True)]
    return Report(
        base=Side(name=clip(old.name), commit=old.commit, stale=stale[0]),
        head=Side(name=clip(head or "workspace"), commit=new.commit, stale=stale[1]),
        notes=clips(notes)[:10],
        **found,
    )


def begin(folder: Path, stack: ExitStack) -> subprocess.Popen[str] | InputError:
    """Start to find out what is stale in a folder, or say why that cannot be."""
    try:
        return stack.enter_context(stages.status(folder))
    except InputError as error:
        return error


def look(both: Both, paths: set[str], notes: list[str]) -> dict[str, Any]:
    """What differs between the two folders; a file that cannot be read becomes a note."""

    def differ(name: str) -> list[Change] | None:
        load = load_yaml if name == PARAMS else load_json
        trees = []
        for side, folder in zip(SIDES, both, strict=True):
            try:
                trees.append(flatten(load(read(folder, name), name), name))
            except InputError as error:
                notes.append(f"{side}: {error}")
        return changes(*trees) if len(trees) == 2 else None

    def affected() -> list[Stage] | None:
        try:
            first = stages.changed(*both, paths)
            behind = stages.followers(stages.load(both[1]), set(first))
        except InputError as error:
            notes.append(f"stages affected: {error}")
            return None
        return [
            Stage(name=clip(name), changed=clips(first.get(name, [])), after=clips(after))
            for name, after in behind.items()
        ][:20]

    return {
        "metrics": differ(METRICS),
        "parameters": differ(PARAMS),
        "environment": differ(ENVIRONMENT),
        "stages": affected(),
    }


def outdated(
    side: str, folder: Path, check: subprocess.Popen[str] | InputError, notes: list[str]
) -> list[str] | None:
    """What in a folder is not of its code; None, and a note, where that is not known."""
    try:
        if isinstance(check, InputError):
            raise check
        return clips(stages.stale(folder, check))
    except InputError as error:
        notes.append(f"{side}: {error}")
        return None


def illustrate(
    both: Both, results: list[Result | InputError], folder: Path, notes: list[str]
) -> list[str]:
    """Draw what there is to see into a folder; the names of the files."""
    from mnist_pipeline.pictures import draw, read_history  # noqa: PLC0415 - matplotlib is slow

    histories = {}
    for side, each in zip(SIDES, both, strict=True):
        try:
            histories[side] = read_history(each)
        except InputError as error:
            notes.append(f"{side}: {error}")
    named = zip(SIDES, results, strict=True)
    judged = {side: each for side, each in named if isinstance(each, Result)}
    return clips(draw(histories, judged, folder))


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """The values that differ, by dotted key; at most 200."""
    return [
        Change(
            name=clip(key), old=value(old, key), new=value(new, key), better=better(old, new, key)
        )
        for key in old | new
        if key not in old or key not in new or old[key] != new[key]
    ][:200]


def better(old: dict[str, Any], new: dict[str, Any], key: str) -> bool | None:
    """Whether a metric changed for the better; None where nobody can say."""
    before, after, root = old.get(key), new.get(key), key.split(".", maxsplit=1)[0]
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    if bool in (type(before), type(after)):
        return None
    return (after > before) == (root in HIGHER) if root in HIGHER + LOWER else None


def value(tree: dict[str, Any], key: str) -> Any:
    """A value as the report's data can have it; None where there is none."""
    found = tree.get(key)
    if key not in tree or isinstance(found, bool):
        return found
    if isinstance(found, int):
        return found if abs(found) < 10**15 else clip(hex(found))
    if isinstance(found, float):
        return found if abs(found) < 1e15 else clip(str(found))  # not so: NaN
    return clip(str(found))


def clips(texts: list[str]) -> list[str]:
    """The same for a list, of 100 at most."""
    return [clip(text) for text in texts[:100]]


if __name__ == "__main__":
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115 - a closed one: >&-
    run(main)
