"""Publishing: data before the commit, one commit for one result, never by force."""

import subprocess

import pytest
from conftest import dvc, git
from flows.clones import clone, set_params, sweep
from flows.gate import RefusedError
from flows.publish import MovedError, push

STAGE = """stages:
  model:
    cmd: echo $RESULT > model; mkdir -p metrics; echo $RESULT > metrics/metrics.json
    outs: [model]
    metrics: [{metrics/metrics.json: {cache: false}}]
"""


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A bare repository of a one-stage pipeline with a DVC remote; never run yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seed = tmp_path / "seed"
    seed.mkdir()
    git(seed, "init", "--quiet", "--initial-branch=main")
    assert dvc(seed, "init", "--quiet").returncode == 0
    assert dvc(seed, "remote", "add", "--default", "store", str(tmp_path / "store")).returncode == 0
    (seed / "dvc.yaml").write_text(STAGE)
    (seed / "params.yaml").write_text("train:\n  lr: 1.0  # as it was\n")
    git(seed, "add", "--all")
    git(seed, "commit", "--quiet", "--message=pipeline")
    git(seed, "clone", "--quiet", "--bare", ".", str(tmp_path / "origin.git"))
    return tmp_path / "origin.git"


def run(folder, result: str) -> None:
    """What the stages do to a clone."""
    assert dvc(folder, "repro", "--force", RESULT=result).returncode == 0


def branches(origin) -> dict[str, str]:
    """Branch → commit of a bare repository."""
    lines = git(origin, "for-each-ref", "--format=%(refname:short) %(objectname)").splitlines()
    return dict(line.split() for line in lines)


def test_main_gets_one_commit_and_the_remote_its_data(origin, tmp_path):
    """dvc.lock and metrics in the commit, the verdict in its message, the model in the remote."""
    before = branches(origin)["main"]
    with clone(str(origin), "main") as folder:
        run(folder, "7")
        assert push(folder, "main", "main", "better") == "main"
    assert git(origin, "rev-parse", "main~1").strip() == before
    assert git(origin, "log", "-1", "--format=%s", "main").strip() == "Retrain: better"
    names = git(origin, "show", "--name-only", "--format=", "main").split()
    assert "dvc.lock" in names
    assert "metrics/metrics.json" in names
    fresh = tmp_path / "fresh"
    git(tmp_path, "clone", "--quiet", str(origin), str(fresh))
    assert dvc(fresh, "pull", "--quiet", "model").returncode == 0
    assert (fresh / "model").read_text() == "7\n"


def test_the_same_result_is_one_branch(origin):
    """A second run with the same result pushes nothing; another result is another branch."""
    names = []
    for result in ("7", "7", "8"):
        with clone(str(origin), "main") as folder:
            run(folder, result)
            names.append(push(folder, "main", "branch", "as before"))
    assert names[0] == names[1] != names[2]
    assert branches(origin).keys() == {"main", *names}
    assert all(name.startswith("retrain/") for name in names)


def test_nothing_new_is_nothing_pushed(origin):
    """A run that changed nothing leaves the branch as it is."""
    for _ in range(2):
        with clone(str(origin), "main") as folder:
            run(folder, "7")
            push(folder, "main", "main", "better")
    assert git(origin, "rev-list", "--count", "main").strip() == "2"


def test_main_that_moved_is_not_forced(origin, tmp_path):
    """Somebody else's commit stays, ours does not appear."""
    with clone(str(origin), "main") as folder:
        run(folder, "7")
        with clone(str(origin), "main") as other:
            (other / "file").write_text("theirs")
            git(other, "add", "file")
            git(other, "commit", "--quiet", "--message=theirs")
            git(other, "push", "--quiet", "origin", "main")
        theirs = branches(origin)
        with pytest.raises(MovedError):
            push(folder, "main", "main", "better")
    assert branches(origin) == theirs


def test_without_a_dvc_remote_nothing_is_published(origin):
    """No commit may refer to data that is nowhere."""
    before = branches(origin)
    with clone(str(origin), "main") as folder:
        assert dvc(folder, "remote", "remove", "store").returncode == 0
        run(folder, "7")
        with pytest.raises(RefusedError, match="dvc push: "):
            push(folder, "main", "branch", "better")
    assert branches(origin) == before


def test_remote_that_refuses_the_push(origin):
    """A protected branch, say: refused with git's reason, nothing published."""
    hook = origin / "hooks/pre-receive"
    hook.write_text("#!/bin/sh\necho main is protected >&2\nexit 1\n")
    hook.chmod(0o755)
    before = branches(origin)
    with clone(str(origin), "main") as folder:
        run(folder, "7")
        with pytest.raises(RefusedError, match="git push: "):
            push(folder, "main", "main", "better")
    assert branches(origin) == before


def test_overrides_keep_the_rest_and_refuse_unknown_keys(origin):
    """One value changes, comments stay; a key that is not there is named."""
    with clone(str(origin), "main") as folder:
        set_params(folder, {"train.lr": 0.5})
        assert (folder / "params.yaml").read_text() == "train:\n  lr: 0.5  # as it was\n"
        with pytest.raises(RefusedError, match=r"overrides: train\.speed: expected a key"):
            set_params(folder, {"train.speed": 1})


def test_clones_are_removed_and_a_dead_runs_clone_is_swept(origin, tmp_path):
    """After the run, and for a run that was killed at the start of the next one."""
    with clone(str(origin), "main") as folder:
        assert folder.is_dir()
    assert not folder.exists()
    gone = subprocess.Popen(["true"])
    gone.wait()
    dead = folder.with_name(f"{gone.pid}-x")
    dead.mkdir()
    sweep()
    assert not dead.exists()
