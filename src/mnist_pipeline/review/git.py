"""Git: what names stand for, and the files of a commit or a workspace in a folder of their own."""

import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path

from mnist_pipeline.files import InputError

# A remote that sends less than 1 byte a second for 60 seconds is given up.
SLOW = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "60"}
CLONE = (  # a clone's configuration, whatever the user's is: nobody may be there to sign commits
    "user.name=mnist_pipeline",
    "user.email=mnist_pipeline@localhost",
    "checkout.guess=true",
    "commit.gpgSign=false",
    "push.gpgSign=false",
    "tag.gpgSign=false",
    "core.autocrlf=false",
    "status.showUntrackedFiles=normal",
    f"core.excludesFile={os.devnull}",
    f"core.hooksPath={os.devnull}",
)


def git(folder: Path, *words: str, timeout: float | None = None, **variables: str) -> str:
    """Run git in a folder; returns what it printed.

    Raises InputError if git fails, or takes longer than `timeout` seconds.

    Git sets variables that tell its hooks their repository. They are left out, since `folder`
    says which repository is meant. `variables` are added.
    """
    others = {name: os.environ[name] for name in os.environ.keys() - _local_variables()}
    environment = SLOW | others | variables
    verb = next(word for word in words if word[0] != "-" and "=" not in word)
    try:
        done = subprocess.run(
            ["git", *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # not every file's name is UTF-8
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"git {verb}: no answer within {timeout} seconds") from error
    if done.returncode != 0:
        raise InputError(f"git {verb}: {done.stderr.strip()}")
    return done.stdout


@cache
def _local_variables() -> set[str]:
    words = ["git", "rev-parse", "--local-env-vars"]  # not those for ssh and passwords, say
    found = {*subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()}
    return found - {"GIT_CONFIG_COUNT"}  # with which a container gets its configuration


def clone(repository: str, folder: Path, cache: Path, branch: str = "") -> Path:
    """Clone with git into a new or empty folder, with a DVC cache that may lie elsewhere.

    `branch` is a branch or a commit; empty: the repository's current branch.
    """
    configuration = [f"--config={each}" for each in CLONE]
    git(Path(), "clone", "--quiet", "--origin=origin", *configuration, repository, str(folder))
    if branch:
        git(folder, "checkout", "--quiet", branch, "--")
    # DVC's configuration has git's format.
    git(folder, "config", "--file", ".dvc/config.local", "cache.dir", str(cache.absolute()))
    return folder


def data_files(folder: Path) -> list[str]:
    """The files *.dvc of a clone, in which dvc add and dvc import say what data belongs to it."""
    return git(folder, "ls-files", "-z", "*.dvc").split("\0")[:-1]


def resolve(top: Path, name: str) -> str:
    """The commit that git or DVC knows by a name; InputError if neither does."""
    from dvc.scm import SCM, resolve_rev  # noqa: PLC0415 (only the report needs it)

    with suppress(InputError):  # after a killed experiment, DVC's HEAD is where that began
        return git(top, "rev-parse", "--verify", f"{name}^{{commit}}").strip()
    try:
        with SCM(str(top)) as scm:
            found = resolve_rev(scm, name) if name else name  # DVC takes an empty one for HEAD
        return git(top, "rev-parse", "--verify", f"{found}^{{commit}}").strip()
    except Exception as error:  # from DVC or from libgit2, which reads no SHA-256
        what = f"expected a commit or an experiment of DVC: {error}{_advise(top)}"
        raise InputError(f"{name}: {what}") from error


def is_experiment(top: Path, commit: str) -> bool:
    """Whether a commit is an experiment of DVC, and on no branch."""
    if git(top, "for-each-ref", "--count=1", f"--contains={commit}", "refs/heads", "refs/remotes"):
        return False
    return bool(git(top, "for-each-ref", f"--points-at={commit}", "refs/exps/??/*/*"))


def merge_base(top: Path, base: str, head: str) -> str:
    """The commit where a head left a base, or the base itself if each has merged the other.

    Raises InputError if they have no commit in common. In a shallow clone the true merge base may
    have been cut off, so an older one is refused as well.
    """
    advice = _advise(top)
    try:
        commits = git(top, "merge-base", "--all", base, head).split()
        commit = commits[0] if len(commits) == 1 else base
    except InputError:
        commit = ""
    if commit and (commit == base or not advice):
        return commit
    raise InputError(f"{base[:7]} and {head[:7]}: expected a commit in common, found none{advice}")


def _advise(top: Path) -> str:
    """How to get the rest of a shallow clone's history and branches; empty for a whole clone."""
    if git(top, "rev-parse", "--is-shallow-repository").strip() == "false":
        return ""
    branches = "'refs/heads/*:refs/remotes/origin/*'"
    return f"; this clone is shallow: git fetch --unshallow origin {branches}"


def check_out(top: Path, commit: str, folder: Path) -> None:
    """Put the files of a repository's commit into a new folder.

    They have the commit's bytes, whatever this machine's git does to line endings. A partial clone
    fetches the files that it lacks.
    """
    folder.mkdir()
    options = ("-c", "core.autocrlf=false", f"--work-tree={folder}")
    words = ("read-tree", "--reset", "-u", "--no-sparse-checkout", "--no-recurse-submodules")
    git(top, *options, *words, commit, GIT_INDEX_FILE=f"{folder}.index")


def copy_workspace(top: Path, folder: Path) -> None:
    """Copy a repository's workspace into a folder, without the files that git ignores."""
    names = git(top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, set(names.split("\0"))):
        path, copy = top / name, folder / name
        # Not what is deleted, a submodule, or beyond a link, which git takes for deleted.
        if path.parent.resolve() == path.parent and (path.is_file() or path.is_symlink()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink():
                copy.symlink_to(path.parent / path.readlink())  # the same target
            else:
                shutil.copy2(path, copy)
