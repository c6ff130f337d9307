"""Which stages a change affects, and what in dvc.lock and metrics/ does not belong to this code.

DVC itself says so, in a folder without data: what it needs to know of the data is in dvc.lock.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro
from dvc.utils.diff import diff, format_dict
from dvc.utils.flatten import flatten

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import LOCK
from mnist_pipeline.review.schema import Change, Step


def open_folder(folder: Path) -> Repo:
    """DVC's view of a folder without git. DVC's notes on the folder lie beside it."""
    core = {"no_scm": True, "site_cache_dir": f"{folder}.site"}
    return Repo(str(folder), config={"core": core})


def stale(folder: Path) -> list[str]:
    """What dvc.lock and metrics/ should have and do not, a line each: "stage: what".

    Nothing without dvc.lock: there is no result that could be stale.
    """
    if not (folder / LOCK).exists():
        return []
    with open_folder(folder) as repo:
        steps = _steps(repo, outputs=True)
    return [
        f"{step.name}: {each}"
        for step in steps
        for each in step.changed or [f"follows {', '.join(step.after)}"]
    ]


def affected(old: Path, new: Path) -> list[Step]:
    """The stages of a new folder whose inputs, or stages before them, differ from an old one's.

    DVC says so if it is asked in the new folder with the old one's dvc.lock.
    """
    both = shutil.copytree(new, new.with_name("both"), symlinks=True)
    shutil.copy(old / LOCK, both)
    with open_folder(both) as repo:
        return _steps(repo, outputs=False)


def _steps(repo: Repo, outputs: bool) -> list[Step]:
    if not any(stage.cmd for stage in repo.index.stages):
        raise InputError("dvc.yaml: expected stages, found none")
    known = {out.fs_path: out.hash_info for out in repo.index.outs}
    steps: dict[Any, Step] = {}
    for stage in plan_repro(graph := repo.index.graph):  # each after those it follows
        what = _differing(stage, known, outputs) if stage.cmd else []  # none for dvc add
        after = [steps[one].name for one in graph.successors(stage) if one in steps]
        if what or after:
            steps[stage] = Step(name=stage.name, changed=what, after=after)
    return list(steps.values())


def _differing(stage: Any, known: dict[str, Any], outputs: bool) -> list[str]:
    """What of a stage differs from dvc.lock: its command, its inputs, its outputs in git.

    Data is not here, so an input that a stage or dvc add writes is compared by its MD5 in dvc.lock.
    An input inside a folder that they write, or a folder that holds what they write, has no MD5
    there. If it is not here either, it is left out, as with --allow-missing.
    """
    moved = [dep for dep in stage.deps if dep.hash_info != known.get(dep.fs_path, dep.hash_info)]
    others = [dep for dep in stage.deps if dep.fs_path not in known]
    files = [dep for dep in others if dep.exists or not _is_data(Path(dep.fs_path), known)]
    files += [out for out in stage.outs if outputs and not out.use_cache]
    return [
        *(["changed command"] if stage.cmd_changed else []),
        *(f"{out.def_path}: not in {LOCK}" for out in stage.outs if outputs and not out.hash_info),
        *(f"{dep.def_path}: not the one that {stage.name} last ran on" for dep in moved),
        *(f"{at}: {what}" for file in files for at, what in flatten(file.status()).items()),
    ]


def _is_data(path: Path, known: Iterable[str]) -> bool:
    return any(path.is_relative_to(each) or Path(each).is_relative_to(path) for each in known)


def differing(old: Path, new: Path, kind: str) -> list[Change]:
    """The "metrics" or "params" that differ between two folders; without dvc.lock: no metrics.

    Raises OSError or one of DVC's own errors for a file that cannot be read.
    """
    sides = []
    for folder in (old, new):
        with open_folder(folder) as repo:
            there = kind == "params" or (folder / LOCK).exists()
            shown = getattr(repo, kind).show(on_error="raise")[""]["data"] if there else {}
        sides.append(format_dict(shown))
    return [
        Change(file=file, name=key, old=each["old"], new=each["new"])
        for file, values in sorted(diff(*sides).items())
        for key, each in sorted(values.items())
    ]
