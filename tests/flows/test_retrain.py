"""The flow called as a function, with stand-ins for DVC, the gate and git."""

from unittest.mock import Mock

import pytest
from conftest import git
from flows import retrain
from prefect.logging import disable_run_logger
from prefect.states import Completed
from service import change

from mnist_pipeline.files import InputError

REMOTE = None  # the repository's own DVC remote
TRYING = "overrides are for trying: publish=main takes its parameters from main"
BRANCH = "branch: expected a branch of origin, found "
CHANGED = "main got new commits, or was locked, during each of 3 attempts"


@pytest.mark.parametrize(
    ("parameters", "config", "reason"),
    [
        ({"publish": "main", "overrides": {"train.epochs": 5}}, REMOTE, TRYING),
        (
            {"overrides": {"train.speed": 1}},
            REMOTE,
            "overrides: params.yaml has no key train.speed",
        ),
        ({"publish": "main", "branch": "v1"}, REMOTE, f"{BRANCH}v1"),
        ({"publish": "main", "branch": "side"}, REMOTE, f"{BRANCH}side"),
        ({"publish": "main", "branch": ""}, REMOTE, BRANCH),
        ({}, "", "publish: expected a default DVC remote for the data, found none"),
    ],
)
def test_refused_before_any_stage(origin, monkeypatch, parameters, config, reason):
    """What contradicts itself or the repository, which the server cannot know."""
    if config is not REMOTE:
        change(origin, **{".dvc/config": config})
    git(origin, "tag", "v1")
    git(origin, "branch", "side/branch", "main")
    git(origin, "tag", "side", "main")
    monkeypatch.setattr(retrain, "connect", retrain.connect.fn)
    monkeypatch.setattr(retrain, "run_stages", lambda *_: pytest.fail("a stage was run"))
    state = retrain.retrain.fn(repository=str(origin), **parameters)
    assert (state.is_failed(), state.name) == (True, "Refused")
    assert state.message == reason


@pytest.mark.parametrize(
    ("pushed", "end"),
    [
        ([None, None, "main"], ("Completed", "main: better")),
        ([None, None, None], ("Refused", CHANGED)),
        ([InputError("a dry run")], ("Refused", "a dry run")),
    ],
)
def test_flow_ends_as_publishing_does(origin, monkeypatch, pushed, end):
    """If main has moved (None), the flow starts over from a new clone, three times at most.

    It waits for git's remote before the stages, and again before it publishes.
    """
    task, push, connect = retrain.publish_result, Mock(side_effect=pushed), Mock()

    def publish_result(*words, return_state):
        return task.fn(*words)

    stands_in = {
        "connect": connect,
        "run_stages": lambda *_: Completed(),
        "show_metrics": lambda _: None,
        "taken_back": lambda _: None,
        "approve": lambda *_: "better",
        "push": push,
        "publish_result": publish_result,
    }
    for name, stand_in in stands_in.items():
        monkeypatch.setattr(retrain, name, stand_in)
    with disable_run_logger():
        state = retrain.retrain.fn(repository=str(origin), publish="main")
    assert (state.name, state.message) == end
    assert len({call.args[0] for call in push.call_args_list}) == len(pushed)
    assert connect.call_count == 2 * len(pushed)
