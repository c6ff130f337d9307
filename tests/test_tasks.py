"""The flow's tasks called as functions: what each makes of what DVC, the gate and git say."""

import pytest
from conftest import dvc, git
from flows import retrain
from flows.gate import RefusedError
from flows.publish import MovedError
from flows.stages import StageError
from prefect.logging import disable_run_logger

STAGES = """stages:
  download: {cmd: cat source > data, deps: [source], outs: [data]}
  evaluate: {cmd: echo boom >&2; exit 3}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A repository with two stages; the second one fails."""
    git(tmp_path, "init", "--quiet")
    assert dvc(tmp_path, "init", "--quiet").returncode == 0
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "source").write_text("1")
    return tmp_path


def test_stage_is_completed_then_cached_then_forced(folder):
    """The state's name says whether DVC had anything to do."""
    with disable_run_logger():
        names = [retrain.download.fn(folder, flags).name for flags in ([], [], ["--force"])]
    assert names == ["Completed", "Cached", "Completed"]
    assert (folder / "data").read_text() == "1"


def test_result_from_dvcs_run_cache_is_cached(folder):
    """What ran before with the same inputs is fetched, not run."""
    with disable_run_logger():
        for source in ("1", "2", "1"):
            (folder / "source").write_text(source)
            state = retrain.download.fn(folder, [])
    assert state.name == "Cached"
    assert (folder / "data").read_text() == "1"


def test_failing_stage_names_its_status(folder):
    """The task fails with the stage's name and what dvc said last."""
    with disable_run_logger(), pytest.raises(StageError, match="evaluate: expected exit status 0"):
        retrain.evaluate.fn(folder, [])


def test_download_and_train_are_tried_again():
    """download with growing pauses; train once, since it resumes; the others never."""
    assert retrain.download.retry_delay_seconds == [5, 20, 60, 180]
    tries = {task.name: task.retries for task in (retrain.download, retrain.train)}
    assert tries == {"download": 4, "train": 1}
    assert retrain.evaluate.retries == retrain.save.retries == retrain.publish_result.retries == 0


@pytest.mark.parametrize(
    ("error", "name", "message"),
    [
        (RefusedError("a dry run"), "Refused", "a dry run"),
        (MovedError("main"), "Moved", "main has moved on"),
    ],
)
def test_publishing_says_why_not(folder, monkeypatch, error, name, message):
    """What gate and push refuse ends the task as Failed, by name, with the reason."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(retrain, "check", lambda *_: "better")
    monkeypatch.setattr(retrain, "push", refuse)
    state = retrain.publish_result.fn(folder, "main", "main", 0.05)
    assert (state.is_failed(), state.name, state.message) == (True, name, message)


def test_progress_is_told_by_trainings_own_lines(monkeypatch):
    """Nothing before the first line; then percent of the epochs done; 100 once dvc has them."""
    shown = []
    monkeypatch.setattr(retrain, "create_progress_artifact", lambda x, key: shown.append(x) or key)
    monkeypatch.setattr(retrain, "update_progress_artifact", lambda _, x: shown.append(x))
    watch = retrain.show_progress(4)
    watch("Updating lock file 'dvc.lock'")
    assert shown == []
    for line in ("Train Epoch: 2 [0/9", "Train Epoch: 2 [5/9", "Train Epoch: 4 [0/9", "noise"):
        watch(line)
    watch("Updating lock file 'dvc.lock'")
    assert shown == [25.0, 75.0, 100.0]
