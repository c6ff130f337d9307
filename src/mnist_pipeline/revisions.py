"""Two states of the project, by the names that git and DVC give them, as folders of files."""

import os
import subprocess
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


def resolve(name: str) -> Revision:
    """A commit by any name that git knows, or the name of a DVC experiment.

    Raises InputError where neither knows it, or two experiments have it.
    """
    found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if found:
        commit = found.split()[-1]  # older versions of git print --end-of-options, too
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

    Raises InputError where they have no commit in common.
    """
    if base.experiment:
        return base
    commit = (git("merge-base", base.commit, head) or "").strip()
    if not commit:
        shallow = (git("rev-parse", "--is-shallow-repository") or "").strip() == "true"
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
    """A commit's files in a repository of their own below a new folder, links as plain files."""
    folder.mkdir()
    tree, index = folder / "files", str(folder / "index")
    checkout = ("checkout-index", "--all", f"--prefix={tree}/")
    for words in (("read-tree", commit), ("-c", "core.symlinks=false", *checkout)):
        if git(*words, GIT_INDEX_FILE=index) is None:
            raise InputError(f"{commit}: expected a commit whose files are all here, found not")
    git("init", "--quiet", str(tree))  # DVC asks for one
    return tree
