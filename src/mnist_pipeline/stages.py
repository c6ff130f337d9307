"""Which stages a change affects, and what in dvc.lock and metrics/ is not of this code."""

import os
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mnist_pipeline.results import LOCK, PARAMS, load_json, load_yaml, read
from mnist_pipeline.revisions import without_git
from mnist_pipeline.stage import InputError, end_with_parent

DVC = "dvc.yaml"
WITHOUT_DATA = ("deleted", "not in cache")  # what dvc says of data that is elsewhere
PATIENCE = 60  # seconds for dvc status
MOST = 100  # stages
KEYS = {"cmd", "desc", "params", "deps", "outs", "metrics", "plots"}  # others hide what changed


class Stage(NamedTuple):
    """A stage as dvc.yaml has it."""

    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]  # sections of params.yaml
    outs: tuple[str, ...]  # with metrics and plots
    data: tuple[str, ...]  # the outs that lie in DVC's cache, not in git


def load(folder: Path) -> dict[str, Stage]:
    """The stages of a folder's dvc.yaml by name.

    Raises InputError where it is malformed, says what can hide a change (`frozen`, `foreach`), or
    names what is not in the folder.
    """
    tree = load_yaml(read(folder, DVC), DVC)
    try:
        found = {str(name): _stage(str(name), entry) for name, entry in tree["stages"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{DVC}: expected stages, each with cmd, deps and outs") from error
    if len(found) > MOST or "vars" in tree:
        raise InputError(f"{DVC}: expected at most {MOST} stages and no vars, found more")
    return found


def _stage(name: str, entry: dict[str, Any]) -> Stage:
    if unknown := entry.keys() - KEYS:
        expected = ", ".join(sorted(KEYS))
        raise InputError(f"{DVC}: {name}: expected {expected}, found {min(map(str, unknown))}")
    parts = ("deps", "params", "outs", "metrics", "plots")
    deps, params, data, metrics, plots = (
        tuple(_name(each) for each in entry.get(part, ())) for part in parts
    )
    for path in (*deps, *data, *metrics, *plots):  # dvc status reads whatever is named here
        if "://" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InputError(f"{DVC}: {name}: expected a path in this folder, found {path}")
    if any("${" in text for text in (str(entry["cmd"]), *deps, *params, *data, *metrics, *plots)):
        raise InputError(
            f"{DVC}: {name}: expected names, found a template, which may be any of them"
        )
    if not all(isinstance(section, str) for section in entry.get("params", ())):
        raise InputError(f"{DVC}: {name}: params: expected sections of {PARAMS}, found a file")
    return Stage(str(entry["cmd"]), deps, params, (*data, *metrics, *plots), data)


def _name(each: Any) -> str:
    """Of an entry that is a name, or a name with settings."""
    return str(next(iter(each), "") if isinstance(each, dict) else each)


def followers(stages: dict[str, Stage], first: set[str]) -> dict[str, list[str]]:
    """The stages behind some stages, each with those of its predecessors that are among them."""
    before = {
        name: [other for other in stages if set(stages[other].outs) & set(stage.deps)]
        for name, stage in stages.items()
    }
    reached = set(first)
    for _ in stages:  # at most so many steps from one to another
        reached |= {name for name in stages if reached & set(before[name])}
    return {
        name: [each for each in before[name] if each in reached]
        for name in stages
        if name in reached
    }


def changed(old: Path, new: Path, paths: set[str]) -> dict[str, list[str]]:
    """The inputs that differ between two folders, by stage: commands, parameters, files in git."""
    before, after = load(old), load(new)
    params = [load_yaml(read(folder, PARAMS), PARAMS) for folder in (old, new)]
    outs = {out for stage in after.values() for out in stage.outs}
    found = {}
    for name, stage in after.items():
        inputs = [
            part
            for part in ("cmd", "deps", "params", "outs")
            if name not in before or getattr(before[name], part) != getattr(stage, part)
        ]
        inputs += [
            f"{PARAMS}: {key}" for key in stage.params if params[0].get(key) != params[1].get(key)
        ]
        inputs += [path for path in stage.deps if path in paths and path not in outs]
        if inputs:
            found[name] = inputs
    return found


def status(folder: Path) -> subprocess.Popen[str]:
    """Start `dvc status` in a folder, which takes it a second.

    Raises InputError, and starts nothing, where a file that it would read is malformed: dvc
    fetches what dvc.yaml names, wherever that is, and unfolds aliases without end.
    """
    load(folder)
    for name in (LOCK, PARAMS):
        load_yaml(read(folder, name), name)
    environment = {"DVC_NO_ANALYTICS": "1"}
    if folder != Path():  # dvc remembers each folder it sees, also one that is temporary
        environment["DVC_SITE_CACHE_DIR"] = str(folder.parent / "site")
    return subprocess.Popen(
        ["dvc", "status", "--json", DVC],
        cwd=folder,
        env=without_git(os.environ) | environment,
        preexec_fn=end_with_parent,  # noqa: PLW1509 - there are no threads
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def stale(folder: Path, process: subprocess.Popen[str]) -> list[str]:
    """What dvc.lock and metrics/ should have and do not, a line each: "stage: what".

    That is what `dvc status` says, less data that is elsewhere; what a run that ended halfway
    left behind; and the stages behind those. InputError where it cannot be known.
    """
    stages, lock = load(folder), load_yaml(read(folder, LOCK), LOCK)
    found = _modified(_answer(process, folder), stages)
    try:
        found += _torn(lock) + _dropped(lock, stages)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{LOCK}: expected stages, whose deps and outs have path and md5"
        ) from error
    first = {name for name, _ in found}
    behind = followers(stages, first & set(stages)).items()
    found += [(name, f"follows {', '.join(after)}") for name, after in behind if name not in first]
    return [f"{name}: {what}" for name, what in found]


def _answer(process: subprocess.Popen[str], folder: Path) -> dict[str, Any]:
    try:
        answer, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        process.kill()
        raise InputError(f"dvc status: no answer within {PATIENCE} s") from error
    if process.returncode != 0:
        lines = complaint.strip().splitlines() or ["no reason given"]
        line = next((line for line in lines if line.startswith("ERROR: ")), lines[-1])
        raise InputError(f"dvc status: {line.replace(str(folder), '.').removeprefix('ERROR: ')}")
    return load_json(answer, "dvc status")


def _modified(answer: dict[str, Any], stages: dict[str, Stage]) -> list[tuple[str, str]]:
    data = {path for stage in stages.values() for path in stage.data}
    found = []
    for name, entries in answer.items():
        for entry in entries:
            if isinstance(entry, str):  # "changed command"
                found.append((name, entry))
                continue
            for path, state in (pair for states in entry.values() for pair in states.items()):
                if isinstance(state, dict):  # the sections of params.yaml
                    found += [(name, f"{path}: {key}: {each}") for key, each in state.items()]
                elif state not in WITHOUT_DATA or path not in data:
                    found.append((name, f"{path}: {state}"))
    return found


def _torn(lock: dict[str, Any]) -> list[tuple[str, str]]:
    """Inputs that are not what the lock itself has as outputs: not all stages have run."""
    stages = lock["stages"].items()
    wrote = {out["path"]: out["md5"] for _, stage in stages for out in stage.get("outs", ())}
    return [
        (str(name), f"{dep['path']}: another one than {LOCK} has as an output")
        for name, stage in stages
        for dep in stage.get("deps", ())
        if dep["md5"] != wrote.get(dep["path"], dep["md5"])
    ]


def _dropped(lock: dict[str, Any], stages: dict[str, Stage]) -> list[tuple[str, str]]:
    """What the lock's run read or wrote and dvc.yaml does not name: dvc looks no more at it."""
    found = []
    for name, entry in lock["stages"].items():
        if name not in stages:
            found.append((str(name), f"not in {DVC}"))
            continue
        stage = stages[name]
        found += [
            (str(name), f"{each}: in {LOCK}, not in {DVC}")
            for part, known in (("deps", stage.deps), ("outs", stage.outs))
            for each in (item["path"] for item in entry.get(part, ()))
            if each not in known
        ]
        sections = entry.get("params", {}).get(PARAMS, {})
        found += [
            (str(name), f"{PARAMS}: {each}: in {LOCK}, not in {DVC}")
            for each in sections
            if each not in stage.params
        ]
    return found
