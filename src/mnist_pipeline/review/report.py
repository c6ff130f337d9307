"""Say whether a change made the model better or worse, and how sure that is."""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dvc.exceptions import DvcException

from mnist_pipeline.files import InputError
from mnist_pipeline.review.git import (
    check_out,
    copy_workspace,
    git,
    is_experiment,
    merge_base,
    resolve,
)
from mnist_pipeline.review.markdown import render
from mnist_pipeline.review.noise import read_spread
from mnist_pipeline.review.result import (
    LOCK,
    Answer,
    Result,
    check_answers,
    find_new,
    read_result,
)
from mnist_pipeline.review.schema import Flip, NewImages, Report, Side
from mnist_pipeline.review.staleness import affected, differing, stale
from mnist_pipeline.review.statistics import ALPHA, compare, compare_new, weigh

FOLDER = "mnist_pipeline-report-"  # start of the temporary folder's name
MOST = 1000  # flips in the data, of which a comment takes at most a megabyte


def main() -> None:
    """Print the report; with --fail-on, the exit status gives the verdict, too."""
    parser = argparse.ArgumentParser(description="Say whether the metrics changed for real.")
    add = parser.add_argument
    add("--base", required=True, help="commit or DVC experiment to compare with")
    add("--head", help="commit or DVC experiment; without it, the workspace")
    add("--json", action="store_true", help="print the report as data")
    add("--pictures", type=Path, metavar="FOLDER", help="draw curves, confusions, new images")
    status = "exit status 1 for a regression, 2 if not comparable or something is unreadable"
    add("--fail-on", choices=["regression"], help=status)
    options = parser.parse_args()
    try:
        report = build(options.base, options.head, options.pictures)
        print(report.model_dump_json() if options.json else render(report))
    except (InputError, OSError):
        raise
    except Exception as error:  # Python would exit with 1, which stands for a regression
        what = "a bug in the report, or a file that it does not expect"
        raise InputError(f"{what}: {explain_fault(repr(error))}") from error
    sys.exit(exit_status(report) if options.fail_on else 0)


def exit_status(report: Report) -> int:
    """1 for a regression, 2 if not comparable or something could not be read, else 0.

    A stale dvc.lock is no failure: the nightly retraining brings it up to date.
    """
    if "regression" in (report.verdict, report.new and report.new.verdict):
        return 1
    return 2 if report.verdict == "not comparable" or report.notes else 0


def build(base: str, head: str | None, pictures: Path | None = None) -> Report:
    """Compare a head, or the workspace, with the commit where it left the base.

    Raises InputError if a name is unknown, if the two have no history in common, or if the head is
    an older state of the base.
    """
    top = Path(git(Path(), "rev-parse", "--show-toplevel").strip())
    old, new = resolve(top, base), resolve(top, "HEAD" if head is None else head)
    began = old if is_experiment(top, old) else merge_base(top, old, new)
    if head and began == new != old:
        raise InputError(f"{head}: expected a commit that {base} does not have, found one it has")
    names = base if began == old else f"merge base with {base}", head or "workspace"
    with TemporaryDirectory(prefix=FOLDER) as name:
        folders = [Path(name) / "base", Path(name) / "head"]
        check_out(top, began, folders[0])
        if head:
            check_out(top, new, folders[1])
        else:
            copy_workspace(top, folders[1])
        return look(folders, names, (began, new), pictures)


def look(
    folders: list[Path], names: tuple[str, str], commits: tuple[str, str], pictures: Path | None
) -> Report:
    """The whole report on the base's and the head's folder."""
    notes: list[str] = []
    ran = [folder for folder in folders if (folder / LOCK).exists()]
    both = len(ran) == len(folders)  # a new project has no result to compare with
    sides = [
        Side(name=name, commit=commit, stale=attempt(notes, folder.name, stale, folder))
        for name, commit, folder in zip(names, commits, folders, strict=True)
    ]
    metrics = attempt(notes, "metrics", differing, *folders, "metrics") or []
    params = attempt(notes, "params", differing, *folders, "params") or []
    stages = (attempt(notes, "stages", affected, *folders) or []) if both else []
    spread = attempt(notes, "seed spread", read_spread, ran)
    if pictures and both:
        from mnist_pipeline.review.pictures import illustrate  # noqa: PLC0415 (matplotlib is slow)

        notes += map(explain_fault, illustrate(folders, pictures))
    base, head = sides
    return Report(
        base=base,
        head=head,
        **judge(folders, notes),
        changes=metrics + params,
        stages=stages,
        spread=spread,
        notes=notes,
    )


def attempt(notes: list[str], what: str, work: Callable[..., Any], *arguments: Any) -> Any:
    """Do some work and return its result; on bad input, add a note and return None."""
    try:
        return work(*arguments)
    except (InputError, DvcException, OSError) as error:
        notes.append(f"{what}: {explain_fault(error)}")
        return None


def explain_fault(error: Exception | str) -> str:
    """A message in one line, without the temporary folder that the report looked at."""
    folder = rf"((?<=')[./][^']*|[^\s'\"]*){FOLDER}\w+/\w+/"  # in quotes, with spaces, too
    return " ".join(re.sub(folder, "", str(error)).split())


def judge(folders: list[Path], notes: list[str]) -> dict[str, Any]:
    """The verdicts, and what they rest on; "not comparable" for whatever is missing or odd."""
    results = []
    for folder, missing in zip(folders, ("no baseline", "no result"), strict=True):
        try:
            results.append(read_result(folder))
        except InputError as error:
            return {"verdict": "not comparable", "reason": f"{missing}: {explain_fault(error)}"}
    old, new = results
    reason = ""
    if old.metrics.dry_run or new.metrics.dry_run:
        reason = f"the {'head' if new.metrics.dry_run else 'base'} is a dry run"
    elif old.test_set != new.test_set or old.metrics.total != new.metrics.total:
        reason = f"another test set: its MD5s in {LOCK} or its number of images differ"
    elif any(old.errors[at].label != new.errors[at].label for at in old.errors.keys() & new.errors):
        reason = "another test set: the same images have other labels, or classes have other names"
    judged = {"verdict": "not comparable", "reason": reason} if reason else judge_answers(old, new)
    return judged | {"new": attempt(notes, "new images", judge_new, folders, old, new)}


def judge_answers(old: Result, new: Result) -> dict[str, Any]:
    """The verdict on two results of the same test images, with the numbers behind it."""
    found = compare(old, new)
    return {
        "verdict": found.verdict(ALPHA),
        "evidence": weigh(found),
        "flips": [flip(at, old, new) for at in sorted(found.fixed + found.broken)[:MOST]],
    }


def judge_new(folders: list[Path], old: Result, new: Result) -> NewImages | None:
    """The verdict on the new test images, and which came and went; None if there are none.

    None for a dry run, too, whose answers mean nothing. Raises InputError as `check_answers` does.
    """
    before, after = map(find_new, folders)
    if not before | after or old.metrics.dry_run or new.metrics.dry_run:
        return None
    check_answers(folders[1], old, new)
    found = compare_new(old, new)
    evidence = weigh(found) if found.total else None
    enough = evidence and evidence.least
    verdict = found.verdict(ALPHA) if enough else "too few to judge"
    names = {"added": sorted(after - before), "removed": sorted(before - after)}
    return NewImages(verdict=verdict, evidence=evidence, **names)


def flip(index: int, old: Result, new: Result) -> Flip:
    """A test image that is among the errors of one result and not of the other."""
    label = (old.errors.get(index) or new.errors[index]).label
    answers = [each.errors.get(index, Answer(label, label)).predicted for each in (old, new)]
    return Flip(index=index, label=label, old=answers[0], new=answers[1])
