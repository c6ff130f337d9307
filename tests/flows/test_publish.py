"""Publishing: data before the commit, one commit for one result, never by force."""

import pytest
from conftest import dvc, git
from flows import clones
from flows.publish import push
from service import change, small_registry

from mnist_pipeline.files import InputError


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A repository that was never run yet."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    return small_registry(tmp_path)


def publish(origin, result: str, where: str) -> str | None:
    """Run the stage in a new clone, and push what came out."""
    with clones.temporary_clone(str(origin), "main") as folder:
        run(folder, result)
        return push(folder, "main", where, "better")


def run(folder, result: str) -> None:
    """What the stages do to a clone."""
    (folder / "source").write_text(result)
    assert dvc(folder, "repro").returncode == 0


def branches(origin) -> dict[str, str]:
    """Branch → commit of a bare repository."""
    words = git(origin, "for-each-ref", "--format=%(refname:short) %(objectname)").split()
    return dict(zip(words[::2], words[1::2], strict=True))


def test_the_same_result_is_one_branch(origin):
    """A second run with the same result pushes nothing; another result is another branch."""
    first, second, other = (publish(origin, result, "branch") for result in ("7", "7", "8"))
    assert first == second != other
    assert branches(origin).keys() == {"main", first, other}
    assert first.startswith("retrain/")


def test_only_what_is_there_is_called_pushed(origin):
    """Where git cannot make the branch, or there is none to push to, nothing is published."""
    git(origin, "branch", "retrain", "main")  # so that no retrain/… can be made
    before = branches(origin)
    with pytest.raises(InputError, match="cannot lock ref"):
        publish(origin, "7", "branch")
    with clones.temporary_clone(str(origin), tip := before["main"]) as folder:
        run(folder, "7")
        with pytest.raises(InputError, match=f"branch: expected one of origin's, found {tip}"):
            push(folder, tip, "main", "better")
    assert branches(origin) == before


def test_main_that_moved_is_not_forced(origin):
    """Somebody else's commit stays; of ours neither commit nor tag appears."""
    with clones.temporary_clone(str(origin), "main") as folder:
        change(origin, README="theirs")
        theirs = branches(origin)
        run(folder, "7")
        assert push(folder, "main", "main", "better") is None
    assert branches(origin) == theirs


def test_without_a_dvc_remote_nothing_is_published(origin):
    """No commit may refer to data that is nowhere."""
    before = branches(origin)
    with clones.temporary_clone(str(origin), "main") as folder:
        assert dvc(folder, "remote", "remove", "store").returncode == 0
        run(folder, "7")
        with pytest.raises(InputError, match=r"dvc push: .*remote"):
            push(folder, "main", "branch", "better")
    assert branches(origin) == before


def test_remote_that_refuses_the_push(origin):
    """A protected branch, say: git's reason, and nothing published."""
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    before = branches(origin)
    with pytest.raises(InputError, match=r"git push: [\s\S]*main is protected"):
        publish(origin, "7", "main")
    assert branches(origin) == before
