"""Two states of the project, by the names that git and DVC give them, as folders of files."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mnist_pipeline.stage import InputError

EXPERIMENTS = "refs/exps/"  # DVC's: refs/exps/<two digits>/<other digits>/<name>


class Revision(NamedTuple):
    """What a name stands for."""

    name: str
    commit: str
    experiment: bool


def git(*words: str, **environment: str) -> str | None:
    """What git printed; None where it failed."""
    done = subprocess.run(
        ["git", *words],
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def without_git(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for what is done elsewhere: git tells its hooks which repository is theirs."""
    return {key: value for key, value in environment.items() if not key.startswith("GIT_")}


def resolve(name: str) -> Revision:
    """A commit by any name that git knows, or the name of a DVC experiment.

    Raises InputError where neither knows it, where two experiments have it, and below the top.
    """
    if prefix := (git("rev-parse", "--show-prefix") or "").strip():
        raise InputError(f"{prefix}: expected the repository's top folder, found one below it")
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    # Older versions of git print --end-of-options, too; ^HEAD is no commit, but all but some.
    if found and re.fullmatch("[0-9a-f]+", commit := found.split()[-1]):
        return Revision(name, commit, experiment=name.startswith(EXPERIMENTS))
    if git("rev-parse", "--git-dir") is None:
        raise InputError(".: expected a git repository, found none")
    refs = git("for-each-ref", "--format=%(objectname) %(refname)", EXPERIMENTS) or ""
    ends = [ref for ref in refs.splitlines() if ref.split("/")[4:] == [name]]
    if len(ends) != 1:
        found = f"{len(ends)} experiments of this name" if ends else "none"
        raise InputError(f"{name}: expected a commit or an experiment of DVC, found {found}")
    return Revision(name, ends[0].split()[0], experiment=True)


def baseline(base: Revision, head: str) -> Revision:
    """What a head is compared with: where it left the base; an experiment as base is taken as is.

    Raises InputError where they have no commit in common, or a shallow clone cannot tell which.
    """
    if base.experiment:
        return base
    commit = (git("merge-base", base.commit, head) or "").strip()
    shallow = (git("rev-parse", "--is-shallow-repository") or "").strip() == "true"
    if not commit or (shallow and commit != base.commit):  # a nearer one may have been cut off
        advice = "; this clone is shallow: git fetch --unshallow" if shallow else ""
        what = f"expected a commit in common with {head[:7]}, found none"
        raise InputError(f"{base.name}: {what}{advice}")
    return (
        base if commit == base.commit else Revision(f"merge base with {base.name}", commit, False)
    )


def differing(base: str, head: str | None) -> set[str]:
    """Paths that differ between a commit and another one, or the workspace."""
    diff = git("diff", "--name-only", "--no-renames", "-z", base, *([head] if head else [])) or ""
    new = "" if head else git("ls-files", "--others", "--exclude-standard", "-z") or ""
    return set(filter(None, (diff + new).split("\0")))


def write_files(commit: str, folder: Path) -> Path:
    """A commit's files in a repository of their own below a new folder, links as plain files.

    As the commit has them, whatever this machine's git does to the ends of lines.
    """
    folder.mkdir()
    tree, index = folder / "files", str(folder / "index")
    settings = ("core.symlinks=false", "core.autocrlf=false", f"core.attributesFile={os.devnull}")
    options = [word for setting in settings for word in ("-c", setting)]
    checkout = (*options, "checkout-index", "--all", f"--prefix={tree}/")
    for words in (("read-tree", commit), checkout):
        if git(*words, GIT_INDEX_FILE=index) is None:
            raise InputError(f"{commit}: expected a commit whose files are all here, found not")
    command = ["git", "init", "--quiet", str(tree)]  # DVC asks for one
    subprocess.run(command, env=without_git(os.environ), check=True)
    return tree
