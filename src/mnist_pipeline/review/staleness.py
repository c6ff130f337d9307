"""Which stages a change affects, and what in dvc.lock and metrics/ is not of this code.

DVC says so itself, in a folder of files without data. What it needs of data, dvc.lock has.
"""

import shutil
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.repo.graph import get_subgraph_of_nodes
from dvc.utils.diff import diff, format_dict

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import LOCK
from mnist_pipeline.review.schema import Step


def open_folder(folder: Path) -> Repo:
    """DVC's view of a folder. What it remembers of it lies beside it."""
    return Repo(str(folder), config={"core": {"site_cache_dir": f"{folder}.site"}})


def stale(folder: Path) -> list[str]:
    """What dvc.lock and metrics/ should have and do not, a line each: "stage: what"."""
    with open_folder(folder) as repo:
        steps = _steps(repo, outputs=True)
    return [
        f"{step.name}: {each}"
        for step in steps
        for each in step.changed or [f"follows {', '.join(step.after)}"]
    ]


def affected(old: Path, new: Path) -> list[Step]:
    """The stages of a new folder whose inputs, or stages before them, differ from an old one's.

    DVC says so, asked in the new folder with the old one's dvc.lock.
    """
    both = shutil.copytree(new, new.with_name("both"), symlinks=True)
    shutil.copy(old / LOCK, both)
    with open_folder(both) as repo:
        return _steps(repo, outputs=False)


def _steps(repo: Repo, outputs: bool) -> list[Step]:
    stages = [stage for stage in repo.index.stages if stage.cmd]  # the others are dvc add's
    if not stages:
        raise InputError("dvc.yaml: expected stages, found none")
    own = {stage: _inputs(repo, stage) for stage in stages}
    if outputs:
        own = {stage: what + _outputs(repo, stage) for stage, what in own.items()}
    first = [stage for stage, what in own.items() if what]
    if not first:  # DVC would take it for all
        return []
    graph = get_subgraph_of_nodes(repo.index.graph, first, downstream=True)
    steps = []
    for stage, what in own.items():
        if stage in graph:
            before = [one.name for one in own if graph.has_edge(stage, one)]
            steps.append(Step(name=stage.name, changed=what, after=before))
    return steps


def _inputs(repo: Repo, stage: Any) -> list[str]:
    """A stage's command, parameters and files that differ from dvc.lock; no stage's outputs."""
    written = {out.fs_path for out in repo.index.outs}
    added = [out for out in repo.index.outs if not out.stage.cmd]
    command = ["changed command"] if stage.cmd_changed else []
    files = [dep for dep in stage.deps if dep.fs_path not in written]
    return [*command, *_states(files), *_moved(stage, added)]


def _outputs(repo: Repo, stage: Any) -> list[str]:
    """What half a run leaves: outputs in git, and inputs, that are not those of dvc.lock."""
    moved = _moved(stage, [out for out in repo.index.outs if out.stage.cmd])
    return [*moved, *_states([out for out in stage.outs if not out.use_cache])]


def _moved(stage: Any, outs: list[Any]) -> list[str]:
    """Inputs with another MD5 in dvc.lock than they have as somebody's outputs."""
    known = {out.fs_path: out.hash_info for out in outs}
    moved = [dep for dep in stage.deps if dep.hash_info != known.get(dep.fs_path, dep.hash_info)]
    return [f"{dep.def_path}: not the one that {stage.name} last ran on" for dep in moved]


def _states(files: list[Any]) -> list[str]:
    """How files, or sections of a file of parameters, differ from dvc.lock."""
    found = []
    for file in files:
        for state in file.status().values():
            parts = (
                [f"{key}: {state[key]}" for key in state] if isinstance(state, dict) else [state]
            )
            found += [f"{file.def_path}: {part}" for part in parts]
    return found


def differing(old: Path, new: Path, kind: str) -> list[tuple[str, str, Any, Any]]:
    """The "metrics" or "params" that differ between two folders: file, key, old and new value.

    Raises OSError or one of DVC's own errors for a file that cannot be read.
    """
    sides = []
    for folder in (old, new):
        with open_folder(folder) as repo:
            shown = getattr(repo, kind).show(on_error="raise")
        sides.append(format_dict(shown[""]["data"]))
    return [
        (file, key, each["old"], each["new"])
        for file, values in sorted(diff(*sides).items())
        for key, each in sorted(values.items())
    ]
