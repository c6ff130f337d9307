"""Versions: each publication is one, production follows, a rollback stays until main differs."""

import shutil
from unittest.mock import Mock

import gto.api
import pytest
from conftest import git
from flows import clones, retrain, versions
from flows.publish import push
from service import REGISTRY, change, retrained, roll_back

from mnist_pipeline.files import InputError
from mnist_pipeline.use.versions import read_tags


def prod(origin) -> str:
    """The name of the version in production."""
    return read_tags(str(origin)).in_stage("prod").name


def table(origin) -> str:
    """What `make versions` prints."""
    with clones.temporary_clone(str(origin), "main") as folder:
        return versions.table(folder)


def test_publications_rollback_and_the_next_result(origin, monkeypatch):
    """The next patch version is in production; no schedule brings back one that was taken back."""
    monkeypatch.setattr(versions, "fetch", Mock())  # of a rollback, which takes seconds
    assert retrained(origin) == "main, mnist-cnn@v1.0.0"
    assert retrained(origin) == "nothing new"
    change(origin, source=b"better")
    assert retrained(origin) == "main, mnist-cnn@v1.0.1"
    assert roll_back(origin) == "v1.0.0 takes the place of v1.0.1 in prod"
    assert retrained(origin) == "nothing published"
    assert prod(origin) == "v1.0.0"
    change(origin, README=b"what the stages do not read")
    assert retrained(origin) == "nothing published"
    change(origin, source=b"another")
    assert retrained(origin) == "main, mnist-cnn@v1.0.2"
    assert roll_back(origin) == "v1.0.0 takes the place of v1.0.2 in prod"  # v1.0.1 was taken back
    assert roll_back(origin, "v1.0.1") == "v1.0.1 takes the place of v1.0.0 in prod"
    assert prod(origin) == "v1.0.1"
    change(origin, source=b"1")  # main goes back to v1.0.0 by itself: no rollback is undone
    assert retrained(origin) == "main, mnist-cnn@v1.0.3"
    with clones.temporary_clone(str(origin), "main") as folder:  # GTO's own way to withdraw
        tag = gto.api.deregister(str(folder), "mnist-cnn", version="v1.0.3").tag
        git(folder, "push", "--quiet", "origin", tag)
    change(origin, source=b"better")
    assert retrained(origin) == "main, mnist-cnn@v1.0.4"  # GTO would try v1.0.3 again


def test_what_people_merge_is_published(origin):
    """A result that came to main in a pull request becomes a version, too, without a commit.

    A stage that writes nothing may have come with it. Of two publishers one wins; the other starts
    over, and leaves neither a commit nor a tag.
    """
    retrained(origin)
    stages = REGISTRY.replace("artifacts:", "  look: {cmd: cat model, deps: [model]}\nartifacts:")
    change(origin, source=b"by hand", repro=True, **{"dvc.yaml": stages})
    tip = git(origin, "rev-parse", "main")
    with clones.temporary_clone(str(origin), "main") as late:
        assert retrained(origin) == "main, mnist-cnn@v1.0.1"
        assert git(origin, "rev-parse", "main") == tip
        assert git(origin, "rev-parse", "mnist-cnn@v1.0.1^{}") == tip
        before = git(origin, "for-each-ref")
        assert push(late, "main", "main", "better") is None
    assert git(origin, "for-each-ref") == before
    shutil.rmtree(origin.parent / "store")
    assert retrained(origin) == "nothing new"  # so no remote is asked
    assert not (origin.parent / "store").exists()


def test_a_commit_that_is_a_version_already(origin):
    """If main is reset to it, a new commit is made, since GTO gives a commit only one version."""
    retrained(origin)
    first = git(origin, "rev-parse", "main").strip()
    change(origin, source=b"better")
    retrained(origin)
    git(origin, "update-ref", "refs/heads/main", first)
    assert retrained(origin) == "main, mnist-cnn@v1.0.2"
    assert git(origin, "rev-parse", "main^").strip() == first
    assert prod(origin) == "v1.0.2"
    assert retrained(origin) == "nothing new"


def test_the_gate_compares_with_production(origin, monkeypatch):
    """Not with main, which after a rollback still has the model that was taken back.

    So does the artifact that shows the metrics. The table is newest first: name, accuracy, date,
    commit, and which one is in production.
    """
    assert table(origin) == "no version of mnist-cnn yet"
    retrained(origin)
    change(origin, errors=2)
    assert retrained(origin) == "main, mnist-cnn@v1.0.1"
    change(origin, errors=9)
    refusal = retrained(origin)
    assert refusal.startswith("significantly worse than the published model: 0 fixed, 7")
    assert refusal.endswith("; revert the change, or see docs/deployment.md: By hand")
    monkeypatch.setattr(versions, "fetch", Mock())  # of a rollback, which takes seconds
    roll_back(origin, "v1.0.0")
    newer, older = table(origin).splitlines()
    words = ("log", "-1", "--format=%cs %h", "--abbrev=7", "mnist-cnn@v1.0.1")
    assert newer.split() == ["v1.0.1", "99.80%", *git(origin, *words).split()]
    assert older.split()[:2] + older.split()[4:] == ["v1.0.0", "99.20%", "prod"]
    monkeypatch.setattr(retrain.artifacts, "create_markdown_artifact", shown := Mock())
    with clones.temporary_clone(str(origin), "main") as folder:
        retrain.show_metrics(folder)
    head, *rows = shown.call_args.args[0].splitlines()
    assert "mnist-cnn@v1.0.0" in head
    assert "| accuracy | 0.992" in " ".join(" ".join(rows).split())
    assert retrained(origin) == "main, mnist-cnn@v1.0.2"  # v1.0.0 had eight errors


def test_ten_comes_after_nine(origin):
    """Versions are sorted by number, and the assignment with the highest number counts.

    A commit without metrics, which only people tag, has no accuracy in the table.
    """
    for number in (10, 9):
        tree = git(origin, "commit-tree", "-m", f"{number}", "main^{tree}").strip()
        for tag in (f"mnist-cnn@v1.0.{number}", f"mnist-cnn#prod#{number}"):
            git(origin, "tag", "--annotate", "--message=by hand", tag, tree)
    tags = read_tags(str(origin))
    assert [version.name for version in tags.versions] == ["v1.0.9", "v1.0.10"]
    assert tags.in_stage("prod").name == "v1.0.10"
    rows = [line.split()[:2] for line in table(origin).splitlines()]
    assert rows == [["v1.0.10", "?"], ["v1.0.9", "?"]]


def test_refused_rollbacks(origin):
    """None before the first, the same, an unknown one, one without data: one line, and no tag."""
    retrained(origin)
    with pytest.raises(InputError, match=r"v1.0.0: expected a version in prod before it"):
        roll_back(origin)
    shutil.move(origin.parent / "store", origin.parent / "elsewhere")
    change(origin, source=b"better")
    retrained(origin)
    before = git(origin, "for-each-ref")
    for name, reason in (
        ("v1.0.1", "v1.0.1: expected a version other than the one in production"),
        (
            "v7.0.0",
            "v7.0.0: expected a version of mnist-cnn, or a stage that has one; versions: v1.0.0",
        ),
        ("", "v1.0.0: its data cannot be had"),
    ):
        with pytest.raises(InputError, match=reason):
            roll_back(origin, name)
    assert git(origin, "for-each-ref") == before


def test_a_tag_without_annotation(origin):
    """It is no version, to GTO neither; if the next version needs its name, a line says so."""
    retrained(origin)
    git(origin, "tag", "mnist-cnn@v1.0.1", "main")
    assert table(origin).split()[0] == "v1.0.0"
    change(origin, source=b"better")
    assert retrained(origin) == "tag 'mnist-cnn@v1.0.1' already exists"
