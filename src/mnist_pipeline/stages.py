"""Which stages a change affects, and what in dvc.lock and metrics/ is not of this code."""

import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from mnist_pipeline.results import LOCK, PARAMS, load_json, load_yaml, read
from mnist_pipeline.stage import InputError

DVC = "dvc.yaml"
WITHOUT_DATA = ("deleted", "not in cache")  # what dvc says of data that is elsewhere
PATIENCE = 60  # seconds for dvc status


class Stage(NamedTuple):
    """A stage as dvc.yaml has it."""

    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]  # sections of params.yaml
    outs: tuple[str, ...]  # with metrics and plots
    data: tuple[str, ...]  # the outs that lie in DVC's cache, not in git


def load(folder: Path) -> dict[str, Stage]:
    """The stages of a folder's dvc.yaml by name; InputError where it is malformed."""
    try:
        found = load_yaml(read(folder, DVC), DVC)["stages"]
        return {str(name): _stage(entry) for name, entry in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{DVC}: expected stages, each with cmd, deps and outs") from error


def _stage(entry: dict[str, Any]) -> Stage:
    parts = ("deps", "params", "outs", "metrics", "plots")
    deps, params, data, metrics, plots = (
        tuple(_name(each) for each in entry.get(part, ())) for part in parts
    )
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
    found = {}
    for name, stage in after.items():
        inputs = ["cmd"] * (name not in before or before[name].cmd != stage.cmd)
        inputs += [
            f"{PARAMS}: {key}" for key in stage.params if params[0].get(key) != params[1].get(key)
        ]
        outs = {out for other in after.values() for out in other.outs}
        inputs += [path for path in stage.deps if path in paths and path not in outs]
        if inputs:
            found[name] = inputs
    return found


def status(folder: Path) -> subprocess.Popen[str]:
    """Start `dvc status` in a folder, which takes it a second."""
    environment = {"DVC_NO_ANALYTICS": "1"}
    if folder != Path():  # dvc remembers each folder it sees, also one that is temporary
        environment["DVC_SITE_CACHE_DIR"] = str(folder.parent / "site")
    return subprocess.Popen(
        ["dvc", "status", "--json"],
        cwd=folder,
        env=os.environ | environment,
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
    found = _modified(_answer(process, folder), stages) + _torn(lock)
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
        last = (complaint.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"dvc status: {last.replace(str(folder), '.').removeprefix('ERROR: ')}")
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
    try:
        stages = lock["stages"].items()
        wrote = {out["path"]: out["md5"] for _, stage in stages for out in stage.get("outs", ())}
        return [
            (str(name), f"{dep['path']}: another one than {LOCK} has as an output")
            for name, stage in stages
            for dep in stage.get("deps", ())
            if dep["md5"] != wrote.get(dep["path"], dep["md5"])
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{LOCK}: expected stages, whose deps and outs have path and md5"
        ) from error
