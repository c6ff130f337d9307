"""Versions: each publication is one, production follows, a rollback stays until main differs."""

import shutil

import pytest
from conftest import dvc, git
from flows import clones, versions
from flows.publish import push
from flows.retrain import publish_result
from prefect.logging import disable_run_logger
from service import change, retrained, small_registry

from mnist_pipeline.files import InputError
from mnist_pipeline.use.versions import read_tags


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository whose stages can be published."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    with disable_run_logger():
        yield small_registry(tmp_path)


def prod(origin) -> str:
    """The name of the version in production."""
    return read_tags(str(origin)).in_stage("prod").name


def roll_back(origin, name: str = "") -> str:
    """What `make rollback` does."""
    with clones.temporary_clone(str(origin), "main") as folder:
        return versions.rollback(folder, name)


def table(origin) -> str:
    """What `make versions` prints."""
    with clones.temporary_clone(str(origin), "main") as folder:
        return versions.table(folder)


def test_publications_rollback_and_the_next_result(origin):
    """The next patch version is in production; one taken back returns by no schedule."""
    assert retrained(origin) == "main, mnist-cnn@v1.0.0"
    assert retrained(origin) == "main"  # nothing new
    change(origin, source=b"better")
    assert retrained(origin) == "main, mnist-cnn@v1.0.1"
    assert roll_back(origin) == "v1.0.0 takes the place of v1.0.1 in prod"
    for _ in range(2):
        assert retrained(origin) == "nothing published"
        assert prod(origin) == "v1.0.0"
    change(origin, README=b"what the stages do not read")
    assert retrained(origin) == "nothing published"
    change(origin, source=b"another")
    assert retrained(origin) == "main, mnist-cnn@v1.0.2"
    assert roll_back(origin, "v1.0.1") == "v1.0.1 takes the place of v1.0.2 in prod"
    assert prod(origin) == "v1.0.1"


def test_what_people_merge_is_published(origin):
    """A result that came to main in a pull request becomes a version, too, without a commit."""
    retrained(origin)
    change(origin, source=b"by hand", repro=True)
    tip = git(origin, "rev-parse", "main")
    assert retrained(origin) == "main, mnist-cnn@v1.0.1"
    assert git(origin, "rev-parse", "main") == tip
    assert git(origin, "rev-parse", "mnist-cnn@v1.0.1^{}") == tip


def test_a_revert_is_published(origin):
    """Main went back to an older result by itself: no rollback is undone."""
    for source, version in ((b"old", "v1.0.0"), (b"new", "v1.0.1"), (b"old", "v1.0.2")):
        change(origin, source=source)
        assert retrained(origin) == f"main, mnist-cnn@{version}"


def test_the_gate_compares_with_production(origin):
    """Not with what main has: there, after a rollback, is a model that was worse or better.

    The table is newest first: name, accuracy, date, commit, and which one is in production.
    """
    assert table(origin) == "no version of mnist-cnn yet"
    retrained(origin)
    change(origin, errors=2)
    assert retrained(origin) == "main, mnist-cnn@v1.0.1"
    change(origin, errors=9)
    assert retrained(origin).startswith("significantly worse than the published model: 0 fixed, 7")
    roll_back(origin, "v1.0.0")
    newer, older = table(origin).splitlines()
    words = ("log", "-1", "--format=%cs %h", "--abbrev=7", "mnist-cnn@v1.0.1")
    assert newer.split() == ["v1.0.1", "99.80%", *git(origin, *words).split()]
    assert older.split()[:2] + older.split()[4:] == ["v1.0.0", "99.20%", "prod"]
    assert retrained(origin) == "main, mnist-cnn@v1.0.2"  # v1.0.0 had eight errors


def test_two_publishers(origin):
    """One wins; the other starts over, and leaves neither a commit nor a tag."""
    retrained(origin)
    change(origin, source=b"better", repro=True)  # so that nobody needs a commit
    with clones.temporary_clone(str(origin), "main") as late:
        assert retrained(origin) == "main, mnist-cnn@v1.0.1"
        before = git(origin, "for-each-ref")
        assert push(late, "main", "main", "better") is None
    assert git(origin, "for-each-ref") == before
    assert retrained(origin) == "main"


def test_no_data_no_version(origin):
    """Where the DVC remote refuses, neither commit nor tag is pushed."""
    before = git(origin, "for-each-ref")
    (origin.parent / "store").write_text("no folder")
    with clones.temporary_clone(str(origin), "main") as folder:
        assert dvc(folder, "repro").returncode == 0
        state = publish_result.fn(folder, "main", "main", 0.05)
    assert state.name == "Refused"
    assert state.message.startswith("dvc push: ERROR: ")
    assert git(origin, "for-each-ref") == before


def test_ten_comes_after_nine(origin):
    """The highest version is the last one, and the last assignment is the highest one."""
    for number in (10, 9):
        tree = git(origin, "commit-tree", "-m", f"{number}", "main^{tree}").strip()
        for tag in (f"mnist-cnn@v1.0.{number}", f"mnist-cnn#prod#{number}"):
            git(origin, "tag", "--annotate", "--message=by hand", tag, tree)
    tags = read_tags(str(origin))
    assert [version.name for version in tags.versions] == ["v1.0.9", "v1.0.10"]
    assert tags.in_stage("prod").name == "v1.0.10"


def test_refused_rollbacks(origin):
    """None before the first, an unknown one, the same one: one line, and no tag."""
    retrained(origin)
    before = git(origin, "for-each-ref")
    for name, reason in (
        ("", "v1.0.0: expected a version before it, found none"),
        ("v7.0.0", "v7.0.0: expected a version of mnist-cnn or its stage; there are: v1.0.0"),
        ("v1.0.0", "v1.0.0: expected another version than that in production"),
    ):
        with pytest.raises(InputError, match=reason):
            roll_back(origin, name)
    assert git(origin, "for-each-ref") == before


def test_no_rollback_to_a_version_without_data(origin):
    """Nobody could serve it: one line, and no tag."""
    retrained(origin)
    shutil.move(origin.parent / "store", origin.parent / "elsewhere")
    change(origin, source=b"better")
    retrained(origin)
    before = git(origin, "for-each-ref")
    with pytest.raises(InputError, match=r"v1\.0\.0: its data cannot be had"):
        roll_back(origin)
    assert git(origin, "for-each-ref") == before
