"""The versions of the model: list them, or put an earlier one into production.

python -m flows.versions                      # list origin's, and which one is in production
python -m flows.versions rollback [v1.0.0]    # put this one, or the one before, into production
"""

import argparse
from pathlib import Path
from typing import Any

import gto.api

from flows import command
from flows.clones import temporary_clone
from mnist_pipeline.files import METRICS, InputError, parse_yaml
from mnist_pipeline.metrics import parse_metrics
from mnist_pipeline.review.git import git
from mnist_pipeline.review.result import LOCK
from mnist_pipeline.use.versions import ARTIFACT, PROD, Tags, Version, fetch, find, read_tags


def register(folder: Path, message: str) -> list[str]:
    """Tag a clone's tip as the next version, in production; returns the tags.

    There are none if production has the same result already.
    """
    tags = read_tags(str(folder))
    prod = tags.in_stage(PROD)
    if prod and outputs(folder, prod.commit) == outputs(folder):
        return []
    if git(folder, "tag", "--points-at", "HEAD", "--list", f"{ARTIFACT}@*"):  # GTO allows one
        git(folder, "commit", "--quiet", "--allow-empty", f"--message=Retrain: {message}")
    made = gto.api.register(folder, ARTIFACT, "HEAD", following(tags), message)
    return [made.tag, assign(folder, made.version, message)]


def following(tags: Tags) -> str:
    """The next patch version. GTO's own would be one that was deprecated, which it refuses."""
    if not tags.versions:
        return "v1.0.0"
    minor, _, patch = tags.versions[-1].name.rpartition(".")
    return f"{minor}.{int(patch) + 1}"


def assign(folder: Path, version: str, message: str) -> str:
    """Tag a version as in production, in a clone; returns the tag."""
    made = gto.api.assign(folder, ARTIFACT, PROD, version, message=message, force=True)
    return str(made.tag)


def taken_back(folder: Path) -> Version | None:
    """The version that has this clone's result, if a lower one is in production instead."""
    tags = read_tags(str(folder))
    prod, here = tags.in_stage(PROD), outputs(folder)
    if prod is None or outputs(folder, prod.commit) == here:
        return None
    higher = tags.versions[tags.versions.index(prod) + 1 :]
    return next((one for one in higher if outputs(folder, one.commit) == here), None)


def outputs(folder: Path, commit: str = "") -> dict[str, Any]:
    """Path → MD5 of all that the stages wrote, from the dvc.lock of a commit or of the folder."""
    text = git(folder, "show", f"{commit}:{LOCK}") if commit else (folder / LOCK).read_text()
    stages = parse_yaml(text, LOCK)["stages"].values()
    return {out["path"]: out["md5"] for stage in stages for out in stage.get("outs", ())}


def standing(tags: Tags) -> list[Version]:
    """The versions that were in production, the present one last, without those taken back.

    A version is taken back when a lower one follows it.
    """
    by_commit = {each.commit: each for each in tags.versions}
    number = tags.versions.index
    found: list[Version] = []
    for version in (by_commit[commit] for commit in tags.stages[PROD] if commit in by_commit):
        found = [each for each in found if number(each) < number(version)] + [version]
    return found


def rollback(folder: Path, name: str) -> str:
    """Put this version, or the one before, into production and push that; returns what was done.

    The one before is the last one that was in production and was not taken back. Raises InputError
    if there is no such version, it is in production, or its data is gone.
    """
    tags = read_tags(str(folder))
    prod = find(tags, PROD, None)
    *before, _ = standing(tags)
    if not name and not before:
        raise InputError(f"{prod.name}: expected a version in {PROD} before it, found none")
    wanted = find(tags, None, name) if name else before[-1]
    if wanted == prod:
        raise InputError(f"{name}: expected a version other than the one in production")
    fetch(git(folder, "remote", "get-url", "origin").strip(), wanted)
    done = f"{wanted.name} takes the place of {prod.name} in {PROD}"
    git(folder, "push", "--quiet", "origin", assign(folder, wanted.name, done))
    return done


def table(folder: Path) -> str:
    """A line a version: name, accuracy, date, commit, and whether it is in production."""
    tags = read_tags(str(folder))
    lines = []
    for version in reversed(tags.versions):
        try:
            metrics = parse_metrics(git(folder, "show", f"{version.commit}:{METRICS}"))
            accuracy = f"{metrics.accuracy:.2%}"
        except InputError:  # somebody's tag on a commit without metrics, or with others
            accuracy = "?"
        tag = f"refs/tags/{ARTIFACT}@{version.name}"  # not git show, which may show signatures
        date = git(folder, "for-each-ref", "--format=%(*committerdate:short)", tag).strip()
        mark = PROD if version == tags.in_stage(PROD) else ""
        lines.append(f"{version.name:10}{accuracy:>8}  {date}  {version.commit[:7]}  {mark}")
    return "\n".join(lines) or f"no version of {ARTIFACT} yet"


def main() -> None:
    """Do what the command line asks for, on this checkout's origin."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m flows.versions", None, __doc__, formatter_class=plain
    )
    parser.add_argument("action", nargs="?", choices=["rollback"])
    parser.add_argument("version", nargs="?", default="")
    words = parser.parse_args()
    with temporary_clone("", "") as folder:
        print(rollback(folder, words.version) if words.action else table(folder))


if __name__ == "__main__":
    with command():
        main()
