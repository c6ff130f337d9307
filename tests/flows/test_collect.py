"""Collecting: what waits in the spool becomes one commit; nothing is lost or pushed twice."""

from contextlib import suppress
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from conftest import git
from flows import clones, collect
from pipeline.test_new_images import image
from service import bare, repository

from mnist_pipeline.files import NEW_TEST, NEW_TRAIN, InputError, write_atomically
from mnist_pipeline.new_images import encode, place, read_new
from mnist_pipeline.use import spool


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository with empty folders for new images; the working folder has the spool."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    monkeypatch.setattr(collect, "ROOT", tmp_path)
    monkeypatch.setattr(collect, "datetime", Mock(now=lambda _: datetime(2026, 1, 1, tzinfo=UTC)))
    monkeypatch.setattr(collect, "connect", collect.connect.fn)  # out of a run
    monkeypatch.chdir(tmp_path)
    texts = {f"{folder}/.gitkeep": "" for folder in (NEW_TRAIN, NEW_TEST)}
    return bare(repository(tmp_path / "seed", texts))


def correct(*numbers: int, label: int = 3) -> None:
    """What the page keeps of somebody's corrections."""
    for number in numbers:
        spool.keep(image(number), label, most=100)


def waiting() -> int:
    return len(list(spool.SPOOL.glob("*.png")))


def empty(origin) -> str:
    return collect.empty(spool.SPOOL, str(origin))


def proposed(origin, branch: str) -> list[str]:
    """The new images on a branch, which must be valid."""
    with clones.temporary_clone(str(origin), branch) as folder:
        return sorted(name for each in (NEW_TRAIN, NEW_TEST) for name in read_new(folder / each)[0])


def names(*numbers: int, label: int = 3) -> list[str]:
    return sorted(place(image(number), label).name for number in numbers)


def test_one_commit_a_day(origin):
    """Each image where it belongs, on a branch; main stays; the spool is empty."""
    main = git(origin, "rev-parse", "main")
    correct(*range(10))
    branch, _, what = empty(origin).partition(": ")
    assert (branch[:7], what) == ("images/", "images added: 10")
    assert proposed(origin, branch) == names(*range(10))
    correct(10)
    said = collect.collect.fn(str(origin)).message
    assert said.startswith(f"{branch}: images added: 1, from ")
    assert said.endswith(f":{collect.ROOT / spool.SPOOL}")  # other machines have others
    assert proposed(origin, branch) == names(*range(11))
    assert git(origin, "rev-parse", "main") == main
    assert git(origin, "rev-list", "--count", f"main..{branch}") == "2\n"
    assert waiting() == 0
    assert empty(origin) == "nothing new"


def test_the_branch_is_mains_own(origin):
    """Also where the repository has another branch checked out: its work is not to be merged."""
    with clones.temporary_clone(str(origin), "main") as folder:
        git(folder, "commit", "--quiet", "--allow-empty", "--message=half done")
        git(folder, "push", "--quiet", "origin", "HEAD:feature")
    git(origin, "symbolic-ref", "HEAD", "refs/heads/feature")
    correct(1)
    branch = empty(origin).partition(": ")[0]
    assert git(origin, "rev-list", "--count", f"main..{branch}") == "1\n"


def test_nothing_twice(origin, capsys):
    """An image on another day's branch or on main is not pushed again, whatever its label.

    The reason is printed, which a deployed run has nowhere else than in its log.
    """
    correct(1, 2)
    branch = empty(origin).partition(":")[0]
    git(origin, "branch", "--move", branch, "images/2000-01-01")
    correct(1)
    correct(2, label=4)
    assert empty(origin) == "nothing new"
    assert capsys.readouterr().out.count("expected a new image, found it in data/new/") == 2
    assert collect.collect.log_prints
    assert waiting() == 0


@pytest.mark.parametrize("at", ["mnist_pipeline.use.spool.write_atomically", "pathlib.Path.unlink"])
def test_a_kill_between_two_labels_leaves_one(origin, monkeypatch, at):
    """Somebody changes 7 to 3, and the server is killed meanwhile: a collector finds no two."""
    correct(1, label=7)
    with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
        killed.setattr(at, Mock(side_effect=KeyboardInterrupt))
        correct(1)
    assert waiting() == 1


def test_what_is_only_in_the_checkout_is_pushed(origin, tmp_path):
    """Somebody may have added the same picture there without committing it."""
    path = place(image(1), 3)
    write_atomically(tmp_path / path, encode(image(1)))
    correct(1)
    assert empty(origin).endswith(": images added: 1")


def test_failed_push_loses_nothing(origin):
    """A remote that refuses: git's reason, and the spool stays."""
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    correct(1, 2)
    with pytest.raises(InputError, match=r"git push: [\s\S]*not today"):
        empty(origin)
    assert waiting() == 2
    hook.unlink()
    assert empty(origin).endswith(": images added: 2")
    assert waiting() == 0


def test_a_damaged_file_stays(origin, capsys):
    """It is named, and the others go."""
    correct(1, 2, 3)
    damaged = sorted(spool.SPOOL.iterdir())[1]
    damaged.write_bytes(damaged.read_bytes()[:99])
    assert empty(origin).endswith(": images added: 2")
    assert capsys.readouterr().out.startswith(f"{damaged.name}: expected a picture")
    assert list(spool.SPOOL.iterdir()) == [damaged]


def test_others_always_push_first(origin, monkeypatch):
    """After three attempts it ends as Refused, and the spool stays."""

    def moved(*_):
        raise InputError("git push: fetch first")

    monkeypatch.setattr(collect, "push", moved)
    correct(1)
    state = collect.collect.fn(str(origin))
    assert state.name == "Refused"
    assert state.message.endswith("of 3 attempts could push; the last one: git push: fetch first")
    assert waiting() == 1


def meanwhile(monkeypatch, name: str, happens) -> None:
    """Make something happen once, when the collector calls one of its functions."""
    plain = getattr(collect, name)

    def interrupted(*words):
        monkeypatch.setattr(collect, name, plain)
        happens()
        return plain(*words)

    monkeypatch.setattr(collect, name, interrupted)


def test_two_collectors(origin, monkeypatch):
    """One pushes while the other is at work: this one starts over, and adds the rest."""
    correct(1)
    others = []
    meanwhile(monkeypatch, "add", lambda: (correct(2), others.append(empty(origin)), correct(3)))
    branch, _, what = empty(origin).partition(": ")
    assert [what, *others] == ["images added: 1", f"{branch}: images added: 2"]
    assert proposed(origin, branch) == names(1, 2, 3)
    assert waiting() == 0


def test_correction_meanwhile_stays(origin, monkeypatch):
    """What comes while a collector is at work waits for the next one."""
    correct(1)
    meanwhile(monkeypatch, "push", lambda: correct(2))
    assert empty(origin).endswith(": images added: 1")
    assert waiting() == 1


def test_label_changed_meanwhile_is_the_one_that_counts(origin, monkeypatch):
    """Whoever corrects a correction while the clone is made loses nothing."""
    correct(1)
    meanwhile(monkeypatch, "temporary_clone", lambda: correct(1, label=5))
    branch = empty(origin).partition(":")[0]
    assert proposed(origin, branch) == names(1, label=5)
    assert waiting() == 0
