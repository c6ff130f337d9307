"""Publishing: data before the commit, one commit for one result, never by force."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import git, reproduce
from flows import clones, publish
from flows.publish import push
from flows.repro import run_dvc
from service import change

from mnist_pipeline.files import InputError


@contextmanager
def clone(origin: Path, result: str = "7") -> Iterator[Path]:
    """A run's clone, whose stages have made this result."""
    with clones.temporary_clone(str(origin), "main") as folder:
        (folder / "source").write_text(result)
        reproduce(folder)
        yield folder


@contextmanager
def refused(origin: Path, reason: str) -> Iterator[None]:
    """Nothing is published, neither a commit nor a tag, and git or DVC says why."""
    before = git(origin, "for-each-ref")
    with pytest.raises(InputError, match=reason):
        yield
    assert git(origin, "for-each-ref") == before


def test_the_same_result_is_one_branch(origin):
    """A second run with the same result pushes nothing; another result is another branch."""
    pushed = []
    for result in ("7", "7", "8"):
        with clone(origin, result) as folder:
            pushed.append(push(folder, "main", "branch", "better"))
    first, second, other = pushed
    assert first == second != other
    assert {*git(origin, "branch", "--format=%(refname:short)").split()} == {"main", first, other}
    assert first.startswith("retrain/")


def test_only_what_is_there_is_called_pushed(origin):
    """Where git cannot make the branch, nothing is published."""
    git(origin, "branch", "retrain", "main")  # so that no retrain/… can be made
    with clone(origin) as folder, refused(origin, "cannot lock ref"):
        push(folder, "main", "branch", "better")


def test_main_that_moved_is_not_forced(origin):
    """Somebody else's commit stays; neither our commit nor our tag appears."""
    with clone(origin) as folder:
        change(origin, README="theirs")
        theirs = git(origin, "for-each-ref")
        assert push(folder, "main", "main", "better") is None
    assert git(origin, "for-each-ref") == theirs


def test_no_data_nothing_published(origin, monkeypatch):
    """Without a DVC remote, or where it refuses: no commit may refer to data that is nowhere."""
    monkeypatch.setattr(publish, "run_dvc", run_dvc)
    with clone(origin) as folder:
        (folder / ".dvc/config").write_text("")
        with refused(origin, r"dvc push: .*remote"):
            push(folder, "main", "main", "better")


def test_remote_that_refuses_the_push(origin):
    """A protected branch, say: git's reason, and nothing published."""
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    with clone(origin) as folder, refused(origin, r"git push: [\s\S]*main is protected"):
        push(folder, "main", "main", "better")
