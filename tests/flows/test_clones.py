"""The clone of a run: the branch's tip, the shared cache, the parameters to try, and its end."""

import subprocess

import pytest
from conftest import dvc, git
from flows import clones
from service import small_repository

from mnist_pipeline.files import InputError


def test_clones_of_ended_runs_are_removed(tmp_path, monkeypatch):
    """At the run's end, or at the next run's start if it was killed; those of living runs stay."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    origin = str(small_repository(tmp_path))
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with clones.temporary_clone(origin, "main") as living:
        assert git(living, "rev-parse", "HEAD") == git(tmp_path / "seed", "rev-parse", "main")
        assert dvc(living, "cache", "dir").stdout.strip() == str(tmp_path / "home/cache")
        killed = living.with_name(f"{gone.pid}-x")
        killed.mkdir()
        with clones.temporary_clone(origin, "main"):
            assert living.exists()
            assert not killed.exists()
    assert not living.exists()


def test_overrides_change_their_key_alone(tmp_path):
    """Comments stay; an unknown key is refused by name: no stage would read it."""
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  lr: 1.0  # as it was\n")
    clones.override_params(tmp_path, {"train.lr": 0.5})
    assert params.read_text() == "train:\n  lr: 0.5  # as it was\n"
    for key in ("train.speed", "nothing.lr"):
        with pytest.raises(InputError, match=f"overrides: params.yaml has no key {key}"):
            clones.override_params(tmp_path, {key: 1})
