"""The clone of a run: the branch's tip, the shared cache, the parameters to try, and its end."""

import platform
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from conftest import git
from dvc.repo import Repo
from flows import clones

from mnist_pipeline.files import InputError, dvc_cache
from mnist_pipeline.review import git as clones_git


def test_clones_of_ended_runs_are_removed(tmp_path, origin):
    """At the run's end, or at the next run's start if it was killed; those of living runs stay."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with clones.temporary_clone(str(origin), "main") as living:
        assert git(living, "rev-parse", "HEAD") == git(tmp_path / "seed", "rev-parse", "main")
        assert dvc_cache(living) == tmp_path / "home/cache"
        assert living.parent == tmp_path / "home/clones" / platform.node()
        killed = living.with_name(f"{gone.pid}-x")
        killed.mkdir()
        with clones.temporary_clone(str(origin), "main"):
            assert living.exists()
            assert not killed.exists()
    assert not living.exists()


@pytest.mark.usefixtures("origin")
def test_clones_of_a_checkout_share_its_cache(tmp_path):
    """Wherever that is: beside the checkout's files, or where its configuration says."""
    checkout = tmp_path / "seed"
    with clones.temporary_clone(str(checkout), "main") as folder:
        assert dvc_cache(folder) == checkout / ".dvc/cache"
    (checkout / ".dvc/config.local").write_text("[cache]\n    dir = ../../disk\n")
    assert dvc_cache(checkout).resolve() == tmp_path / "disk"


def test_users_git_does_not_reach_clones(origin):
    """Even if the user signs, has hooks or another name for origin, a clone can commit and tag.

    Its files have the bytes of the commit, whatever the user's git does to line endings.
    """
    with clones.temporary_clone(str(origin), "main") as folder:
        clones.git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
        clones.git(folder, "tag", "--annotate", "--message=x", "x")
        assert git(folder, "log", "-1", "--format=%an").strip() == "mnist_pipeline"
        assert git(folder, "remote") == "origin\n"
        assert b"\r" not in (folder / "dvc.yaml").read_bytes()


def test_users_ssh_is_used(tmp_path, monkeypatch):
    """What git needs to reach a remote stays, though a hook's repository is left out."""
    monkeypatch.setenv("GIT_SSH_COMMAND", "echo mine >&2; false")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="mine"):
        clones.git(tmp_path, "ls-remote", "git@127.0.0.1:nothing")


def test_a_containers_git_configuration_is_used(tmp_path, origin, monkeypatch):
    """Variables are how a container gets its credentials, or another address."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{origin}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "there:it/is")
    assert "refs/heads/main" in clones.git(tmp_path, "ls-remote", "there:it/is")


def test_a_refusal_names_gits_command(tmp_path, origin):
    """And none of the options before it."""
    with pytest.raises(InputError, match=r"^git read-tree: fatal: "):
        clones_git.check_out(origin, "0" * 40, tmp_path / "new")


def test_nothing_of_a_clone_stays_elsewhere(origin, monkeypatch):
    """DVC's notes on it, which would lie in /var/tmp, go with it."""
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    with clones.temporary_clone(str(origin), "main") as folder, Repo(folder) as repo:
        notes = Path(repo.site_cache_dir)
        assert notes.is_relative_to(tempfile.gettempdir())
        assert notes.is_dir()
    assert not notes.parent.exists()


def test_remote_that_never_answers_is_given_up(tmp_path, monkeypatch):
    """One line, instead of a run or a page that waits for ever."""
    monkeypatch.setitem(clones_git.SLOW, "GIT_HTTP_LOW_SPEED_TIME", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x.git"
        with pytest.raises(InputError, match="Operation too slow"):
            clones.git(tmp_path, "ls-remote", address)


def test_overrides_change_their_key_alone(tmp_path):
    """Comments stay; an unknown key is refused by name: no stage would read it."""
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  lr: 1.0  # as it was\n")
    clones.override_params(tmp_path, {"train.lr": 0.5})
    assert params.read_text() == "train:\n  lr: 0.5  # as it was\n"
    for key in ("train.speed", "nothing.lr"):
        with pytest.raises(InputError, match=f"overrides: params.yaml has no key {key}"):
            clones.override_params(tmp_path, {key: 1})
