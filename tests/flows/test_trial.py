"""A trial as a function, with stages of a second: what it pushes, and what it refuses."""

import json

import pytest
from conftest import dvc_repo, git, push, reproduce
from flows import clones, trial
from flows.stages import refused
from prefect.states import Completed, Failed
from service import NINE, bare, quick_project

from mnist_pipeline import save
from mnist_pipeline.files import InputError
from mnist_pipeline.metrics import parse_metrics


@pytest.fixture(autouse=True)
def _out_of_a_run(tmp_path, monkeypatch):
    """Ask no server, and keep clones in tmp_path."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    monkeypatch.setattr(trial, "push_experiment", trial.push_experiment.fn)
    monkeypatch.setattr(trial, "run_dvc", push)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A repository with quick stages, and its remote."""
    seed = quick_project(tmp_path_factory.mktemp("trial") / "seed")
    reproduce(seed)
    origin = bare(seed)
    push(seed)
    return origin


@pytest.mark.parametrize("exported", [True, False])
def test_pushes_data_and_an_experiment(origin, tmp_path, monkeypatch, exported):
    """Also of a model that save refuses: its accuracy counts like any other's."""
    with pytest.raises(InputError) as error:
        save.check_accuracy(parse_metrics(json.dumps(NINE | {"accuracy": 0.9})), 0.95)
    too_bad = f"save: error: {error.value}"

    def run_stages(folder, force):
        reproduce(folder, "save" if exported else "evaluate")
        return Completed() if exported else refused(too_bad)

    monkeypatch.setattr(trial, "run_stages", run_stages)
    name = f"trial-{exported}"
    state = trial.trial.fn(str(origin), "main", {"train.seed": 2}, name)
    assert state.is_completed()
    assert state.message == name + f", without a model: {too_bad}" * (not exported)

    git(tmp_path, "clone", "--quiet", str(origin), "elsewhere")
    elsewhere = tmp_path / "elsewhere"
    with dvc_repo(elsewhere) as repo:
        repo.experiments.pull("origin", [name], pull_cache=True)
        repo.experiments.apply(name)
    assert (elsewhere / "models/weights").read_text() == "searched 1.0 2"
    assert "0.99" in (elsewhere / "metrics/history.csv").read_text()
    # Without a model of its own, main's lies there.
    assert ((elsewhere / "models/exported").read_text() == "searched 1.0 2") == exported


def test_what_main_has_already_is_an_experiment_too(origin, monkeypatch):
    """A commit without a change, on top of the one that was asked for, under that one's ref."""
    monkeypatch.setattr(trial, "run_stages", lambda *_, **__: Completed())
    assert trial.trial.fn(str(origin), "main", {}, "trial-x").is_completed()
    main = git(origin, "rev-parse", "main").strip()
    assert git(origin, "rev-parse", f"{trial.ref_of(main, 'trial-x')}^").strip() == main


@pytest.mark.parametrize(
    "end", [Failed(message="save: exited with -9"), refused("save: error: no space left")]
)
def test_a_failed_save_ends_the_trial(origin, monkeypatch, end):
    """With its reason; nothing is pushed. Only too little accuracy is a result."""
    monkeypatch.setattr(trial, "run_stages", lambda *_, **__: end)
    state = trial.trial.fn(str(origin), "main", {"train.lr": 0.25}, "trial-y")
    assert (state.name, state.message) == (end.name, end.message)
    assert "trial-y" not in git(origin, "for-each-ref", "refs/exps")


def test_an_unknown_key_is_refused(origin):
    """In one line, before any stage runs."""
    state = trial.trial.fn(str(origin), "main", {"train.rate": 0.25}, "trial-z")
    said = "overrides: params.yaml has no key train.rate"
    assert (state.name, state.message) == ("Refused", said)
