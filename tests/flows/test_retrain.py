"""The flow and its tasks called as functions, with stand-ins for DVC, the gate and git."""

import pytest
from flows import clones, retrain
from prefect.cache_policies import NO_CACHE
from prefect.logging import disable_run_logger
from prefect.states import Completed
from service import small_registry

from mnist_pipeline.files import InputError


@pytest.fixture(autouse=True)
def _out_of_a_run(tmp_path, monkeypatch):
    """No log, as nobody listens, and clones out of the way."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    with disable_run_logger():
        yield


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository to clone."""
    return str(small_registry(tmp_path_factory.mktemp("repository")))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"publish": "main", "overrides": {"train.epochs": 5}}, "overrides are for trying"),
        ({"overrides": {"train.speed": 1}}, "overrides: params.yaml has no key train.speed"),
        ({"branch": "nowhere"}, "git checkout: "),
    ],
)
def test_refused_before_any_stage(origin, monkeypatch, parameters, reason):
    """Parameters that contradict each other or the repository, which the server cannot know."""
    monkeypatch.setattr(retrain, "run_stages", lambda *_: pytest.fail("a stage was run"))
    state = retrain.retrain.fn(repository=origin, **parameters)
    assert (state.is_failed(), state.name) == (True, "Refused")
    assert state.message.startswith(reason)


@pytest.mark.parametrize(
    ("pushed", "end"),
    [
        (["main"], ("Completed", "main: better")),
        ([None, None, "main"], ("Completed", "main: better")),
        ([None, None, None], ("Refused", "main got new commits during each of 3 attempts")),
        ([InputError("a dry run")], ("Refused", "a dry run")),
    ],
)
def test_flow_ends_as_publishing_does(origin, monkeypatch, pushed, end):
    """Where main has moved (None), it starts over from a new clone, three times at most."""
    folders = set()

    def push(folder, *_):
        folders.add(folder)
        result = pushed[len(folders) - 1]
        if isinstance(result, InputError):
            raise result
        return result

    def publish_result(*words, return_state):
        return task.fn(*words)

    task = retrain.publish_result
    monkeypatch.setattr(retrain, "run_stages", lambda *_: Completed())
    monkeypatch.setattr(retrain, "show_metrics", lambda _: None)
    monkeypatch.setattr(retrain, "taken_back", lambda _: None)
    monkeypatch.setattr(retrain, "approve", lambda *_: "better")
    monkeypatch.setattr(retrain, "push", push)
    monkeypatch.setattr(retrain, "publish_result", publish_result)
    state = retrain.retrain.fn(repository=origin, publish="main")
    assert (state.name, state.message) == end
    assert len(folders) == len(pushed)


def test_publishing_is_tried_once():
    """A refusal stays one, and no result of Prefect's takes its place."""
    task = retrain.publish_result
    assert (task.retries, task.cache_policy) == (0, NO_CACHE)
