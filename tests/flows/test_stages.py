"""The stages as tasks, with stand-ins for DVC: which flags they get, which is the last."""

import asyncio
import json

import pytest
from conftest import dvc, git
from flows import stages
from prefect.cache_policies import NO_CACHE
from prefect.logging import disable_run_logger
from prefect.states import Failed, exception_to_failed_state
from service import repository, small_repository


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


SAID = "echo 'error: params.yaml: train.lr: too large' >&2; exit 2"
LOST = "echo 'error: train: a process is gone; dvc repro goes on' >&2; exit 2"


@pytest.mark.parametrize(
    ("command", "end", "why"),
    [
        (SAID, "Refused", "train: error: params.yaml: train.lr: too large"),
        ("exit 1", "Refused", "exited with 1"),
        ("kill -9 $$", "Failed", "exited with -9"),
        (LOST, "Failed", "train: error: train: a process is gone; dvc repro goes on"),
    ],
)
def test_what_would_fail_again_is_refused(tmp_path, monkeypatch, command, end, why):
    """Where a stage says what is wrong; not where it is killed, or a process of it is lost."""
    texts = {"dvc.yaml": json.dumps({"stages": {"train": {"cmd": command}}})}
    texts["params.yaml"] = "train: {epochs: 1}"
    folder = repository(tmp_path, texts)

    def stage(*words, return_state):
        with disable_run_logger(), pytest.raises(RuntimeError) as error:
            stages.run_task.fn(*words)
        return asyncio.run(exception_to_failed_state(error.value))  # as Prefect does

    stage.name = "train"
    monkeypatch.setattr(stages, "STAGES", [stage])
    state = stages.run_stages(folder, force=False)
    assert state.name == end
    assert why in state.message


def test_download_and_train_are_tried_again():
    """download with growing pauses, train where that may help."""
    download, train, *others = stages.STAGES
    assert (download.retries, download.retry_delay_seconds) == (4, [5, 20, 60, 180])
    assert (train.retries, train.retry_condition_fn) == (1, stages.may_help)
    assert [task.retries for task in others] == [0, 0]


def test_dvc_alone_decides_what_to_run():
    """No result of Prefect's takes a stage's place."""
    assert all(task.cache_policy == NO_CACHE for task in stages.STAGES)
