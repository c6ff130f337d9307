"""The flow called as a function, with stand-ins for DVC, the gate and git."""

from unittest.mock import Mock

import pytest
from conftest import git
from flows import retrain
from flows.clones import temporary_clone
from prefect.logging import disable_run_logger
from prefect.states import Completed
from service import change, retrained, roll_back

from mnist_pipeline.files import InputError

CHANGED = "main got new commits during each of 3 attempts"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"publish": "main", "overrides": {"train.epochs": 5}}, "overrides are for trying"),
        ({"overrides": {"train.speed": 1}}, "overrides: params.yaml has no key train.speed"),
        ({"publish": "main", "branch": "v1"}, "branch: expected a branch of origin, found v1"),
        ({"publish": "main", "branch": "side"}, "branch: expected a branch of origin, found side"),
        ({"publish": "main", "branch": ""}, "branch: expected a branch of origin, found "),
    ],
)
def test_refused_before_any_stage(origin, monkeypatch, parameters, reason):
    """Parameters that contradict each other or the repository, which the server cannot know."""
    git(origin, "tag", "v1")
    git(origin, "branch", "side/branch", "main")
    git(origin, "tag", "side", "main")
    monkeypatch.setattr(retrain, "connect", retrain.connect.fn)
    monkeypatch.setattr(retrain, "run_stages", lambda *_: pytest.fail("a stage was run"))
    state = retrain.retrain.fn(repository=str(origin), **parameters)
    assert (state.is_failed(), state.name) == (True, "Refused")
    assert state.message.startswith(reason)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "publish: expected a default DVC remote for the data, found none"),
        (
            "[core]\n    remote = near\n['remote \"near\"']\n    url = ../../near\n",
            "DVC remote near: expected an address or an absolute path, found a relative one",
        ),
    ],
)
def test_no_place_for_the_data(origin, monkeypatch, config, reason):
    """Told before any stage; a relative path would lead from the clone to a folder of its own."""
    change(origin, **{".dvc/config": config})
    monkeypatch.setattr(retrain, "connect", retrain.connect.fn)
    monkeypatch.setattr(retrain, "run_stages", lambda *_: pytest.fail("a stage was run"))
    assert retrain.retrain.fn(repository=str(origin)).message == reason


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


def test_metrics_are_shown_beside_productions(origin, monkeypatch):
    """As the gate compares with production, even if main has other ones, as after a rollback."""
    shown: list[str] = []
    for errors in (9, 7):
        change(origin, errors=errors)
        retrained(origin)
    roll_back(origin)
    monkeypatch.setattr(
        retrain.artifacts, "create_markdown_artifact", lambda text, key: shown.append(text)
    )
    with temporary_clone(str(origin), "main") as folder:
        retrain.show_metrics(folder)
    (table,) = shown
    assert "mnist-cnn@v1.0.0" in table.splitlines()[0]
    assert "| accuracy | 0.991" in " ".join(table.split())
