"""The stages as tasks, with stand-ins for DVC: which flags they get, which is the last."""

import pytest
from conftest import dvc, git
from flows import stages
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed
from service import small_repository


@pytest.mark.parametrize(("remote", "flags"), [(True, ["--force", "--pull"]), (False, ["--force"])])
def test_failed_stage_is_the_last(tmp_path, monkeypatch, remote, flags):
    """DVC pulls where it has a remote; without one that would fail."""
    git(tmp_path, "clone", "--quiet", str(small_repository(tmp_path)), "clone")
    if not remote:
        assert dvc(tmp_path / "clone", "remote", "remove", "store").returncode == 0
    calls = []

    def stage(*words, return_state):
        calls.append(words)
        return Failed(message="boom")

    stage.name = "download"
    monkeypatch.setattr(stages, "STAGES", [stage, stage])
    state = stages.run_stages(tmp_path / "clone", force=True)
    assert (state.is_failed(), state.message) == (True, "download: boom")
    assert calls == [("download", tmp_path / "clone", flags)]


def test_download_and_train_are_tried_again():
    """download with growing pauses; train once, since it resumes. DVC alone decides what to run."""
    tries = {task.name: task.retries for task in stages.STAGES}
    assert tries == {"download": 4, "train": 1, "evaluate": 0, "save": 0}
    assert stages.STAGES[0].retry_delay_seconds == [5, 20, 60, 180]
    assert all(task.cache_policy == NO_CACHE for task in stages.STAGES)
