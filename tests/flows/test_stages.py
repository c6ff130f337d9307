"""The stages as tasks, with stand-ins for DVC: which flags they get, which is the last."""

from unittest.mock import Mock

import pytest
from conftest import git
from flows import stages
from flows.coordinator import fetch
from flows.retrain import publish_result
from flows.trial import push_experiment
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed
from service import repository

from mnist_pipeline.files import InputError


@pytest.mark.parametrize(("remote", "flags"), [(True, ["--force", "--pull"]), (False, ["--force"])])
def test_failed_stage_is_the_last(origin, tmp_path, monkeypatch, remote, flags):
    """Refused if it would fail again. DVC pulls only if it has a remote; else that would fail."""
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    if not remote:
        (tmp_path / "clone/.dvc/config").write_text("")
    for fault, end in ((InputError("boom"), "Refused"), (RuntimeError("boom"), "Failed")):
        first, second = Mock(side_effect=fault), Mock()
        first.name, second.name = "train", "evaluate"
        monkeypatch.setattr(stages, "STAGES", [first, second])
        state = stages.run_stages(tmp_path / "clone", force=True)
        assert (state.type, state.name, state.message) == ("FAILED", end, "train: boom")
        first.assert_called_once_with("train", tmp_path / "clone", flags)
        second.assert_not_called()


def test_stage_without_a_task_is_refused(tmp_path):
    """It would never run, and the model would not learn what it prepares. No other stage runs."""
    repository(tmp_path, {"dvc.yaml": "stages: {download: {cmd: a}, prepare: {cmd: b}}"})
    state = stages.run_stages(tmp_path, force=False)
    assert state.name == "Refused"
    assert state.message.startswith("dvc.yaml: prepare: expected a task for each stage")


def test_download_and_train_are_tried_again():
    """If that may help, not if they would fail again; download with growing pauses."""
    download, train, *others = stages.STAGES
    assert (download.retries, download.retry_delay_seconds) == (4, [5, 20, 60, 180])
    assert train.retries == 1
    assert download.retry_condition_fn == train.retry_condition_fn == stages.may_help
    assert [task.retries for task in (*others, publish_result)] == [0, 0, 0]
    ends = [Failed(data=fault("boom")) for fault in (RuntimeError, InputError)]
    assert [stages.may_help(train, None, end) for end in ends] == [True, False]


def test_dvc_alone_decides_what_to_run():
    """Prefect never takes an old result instead of running a task."""
    tasks = (*stages.STAGES, stages.connect, publish_result, push_experiment, fetch)
    assert all(task.cache_policy == NO_CACHE for task in tasks)
