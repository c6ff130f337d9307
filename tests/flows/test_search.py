"""A search: what it refuses, what it orders, how it ends."""

import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import pandas as pd
import pytest
from conftest import exit_status, git, refusal, set_params
from flows import clones, coordinator, search
from flows.clones import temporary_clone
from flows.stages import refused
from flows.trial import ref_of
from prefect.exceptions import CancelledRun, ObjectNotFound, TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Crashed, Failed
from service import NEAR, change, repository, small_registry

from mnist_pipeline.files import InputError
from mnist_pipeline.review.ranking import FAULT, NAME, SCORE

ABOVE = "train.validation_fraction: expected above 0"
NONE = 'grid: expected values, such as {"train.lr": [0.5, 1]}, found '


def test_only_what_origin_lacks_is_trained(monkeypatch):
    """What was refused is not tried again; what was lost is, half a minute later."""
    there, ordered = {"a": 0.9}, []
    ends = {"b": refused("boom"), "c": Crashed(message="gone")}

    def run(trials, delay):
        ordered.append(([*trials], delay))
        if delay:
            there["c"] = 0.8
        return {name: ends[name] for name in trials}

    monkeypatch.setattr(coordinator, "fetch", lambda *_: dict(there))
    found = SimpleNamespace(folder=None, commit="", advance=lambda _: None, run=run)
    scores, faults = coordinator.Trials.train(found, {name: {} for name in "abc"})
    assert ordered == [(["b", "c"], 0), (["c"], 30)]
    assert (scores, faults) == ({"a": 0.9, "c": 0.8}, {"b": "Refused: boom"})


def test_cancelled_with_many_trials(monkeypatch):
    """All of them are cancelled, though the worker's signal comes meanwhile, and one is deleted."""
    trials, cancelled = {f"trial-{number}": {} for number in range(9)}, []

    def cancel(run, _):
        if run == "trial-2" and TerminationSignal not in cancelled:
            cancelled.append(TerminationSignal)
            raise TerminationSignal(signal=15)
        if run == "trial-4":
            raise ObjectNotFound(Exception())
        cancelled.append(run)

    client = Mock(set_flow_run_state=cancel)
    monkeypatch.setattr(coordinator, "get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr(coordinator, "ended", Mock(side_effect=CancelledRun))
    found = SimpleNamespace(parallel=8, submit=lambda _, name, *__: name)
    with pytest.raises(CancelledRun):
        coordinator.Trials.run(found, trials, 0)
    assert cancelled == ["trial-0", "trial-1", TerminationSignal, *[*trials][2:4], *[*trials][5:8]]


def test_exit_status_is_the_searchs(monkeypatch):
    """0 for a search without a failed trial, 2 for one that was refused, 1 for any other."""
    monkeypatch.setattr(search, "online", lambda: 1)
    for state, status in ((Completed(), 0), (refused(""), 2), (Failed(), 1)):
        monkeypatch.setattr(search, "search_here", lambda state=state, **_: state)
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            assert exit_status(search.main, '{"train.lr": [1]}') == status


def test_refused_before_any_trial(tmp_path, monkeypatch):
    """What only the commit's own code can see: the run ends as Refused, with its line."""
    boom = Mock(side_effect=InputError("values: train.lr: expected greater than 0, found -1.0"))
    monkeypatch.setattr(search, "temporary_clone", lambda *_: nullcontext(tmp_path))
    monkeypatch.setattr(search, "plan", boom)
    state = search.search.fn({"train.lr": [-1.0]})
    assert (state.name, state.message) == ("Refused", str(boom.side_effect))


def test_refused_before_a_server_starts(tmp_path, monkeypatch, capsys):
    """Also if this machine would search by itself: one line, and exit status 2."""
    monkeypatch.setattr(clones, "HOME", tmp_path)
    monkeypatch.setattr(search, "service", lambda *_, **__: pytest.fail("it was started"))
    for grid, says in (
        ("", f"{NONE}none"),
        ('{"lr": [1]}', "grid: lr: expected a section and a name, such as train.lr"),
        ('{"train.lr": 0.5}', "grid: train.lr: expected a list or a range, found 0.5"),
        ('{"train.lr": []}', "grid: train.lr: expected a list or a range, found []"),
        ('{"train.lr": {"low": 1}}', "grid: train.lr.high: expected a value, found none"),
        ('{"train.seed": {"low":1,"high":9}}', "grid: train.seed: expected a list, found a range"),
    ):
        with temporary_settings({PREFECT_API_URL: ""}):
            assert refusal(search.main, capsys, grid).startswith(says)
    with temporary_settings({PREFECT_API_URL: ""}):
        assert refusal(search.main, capsys, "{}", "grid=x") == f"{NONE}x"


def test_what_is_refused_is_the_commits(tmp_path, monkeypatch, capsys):
    """A clone is searched: edits and remotes that only the checkout has do not count.

    The check of the grid is left out: it loads torch, and reads the same clone.
    """
    params = {"params.yaml": "train: {validation_fraction: 0.1}\n"}
    checkout = repository(tmp_path / "checkout", params)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=x")
    set_params(checkout, train={"validation_fraction": 0.0})
    (checkout / ".dvc/config.local").write_text("[core]\n    remote = mine\n")
    monkeypatch.setattr(clones, "HOME", tmp_path)
    for name, value in (("ROOT", checkout), ("plan", lambda *_: None), ("service", None)):
        monkeypatch.setattr(search, name, value)
    with temporary_settings({PREFECT_API_URL: ""}):
        said = refusal(search.main, capsys, '{"train.lr": [1.0]}', "publish=branch")
    assert said.startswith("publish: expected a default DVC remote")


@pytest.mark.parametrize("branch", ["main", ""])
def test_the_committed_result_is_nothing_new(tmp_path, monkeypatch, branch):
    """If it is the best point, no branch is proposed, whichever branch the search was given."""
    monkeypatch.setattr(clones, "HOME", tmp_path / "home")
    registry = small_registry(tmp_path)
    change(registry, repro=True, source="2")
    with temporary_clone(str(registry), branch) as folder:
        tip = git(folder, "rev-parse", "HEAD").strip()
        git(folder, "update-ref", ref_of(tip, "trial-x"), tip)
        found = SimpleNamespace(folder=folder, commit=tip)
        ranking = pd.DataFrame({NAME: ["trial-x"]})
        assert search.propose(found, ranking, branch).startswith("nothing new: not significantly")


def test_the_ranking_stands_if_nothing_can_be_proposed(tmp_path, monkeypatch):
    """The search fails with both reasons, and has shown its ranking. No trial is ordered here."""
    faulty = {"train.lr": 4.0, SCORE: None, NAME: "trial-x", FAULT: "Refused: train: diverges"}
    found, shown = SimpleNamespace(rows={"trial-x": faulty}, commit="a" * 40, score=None), []
    monkeypatch.setattr(search, "temporary_clone", lambda *_: nullcontext(tmp_path))
    monkeypatch.setattr(search, "plan", lambda *_: ({}, [{}], None, 1))
    monkeypatch.setattr(search, "check_ranking", lambda *_: None)
    monkeypatch.setattr(search, "Trials", lambda *_: found)
    monkeypatch.setattr(search, "explore", lambda *_: None)
    monkeypatch.setattr(search, "show", lambda _, text, __: shown.append(text))
    state = search.search.fn({"train.lr": [4.0]}, publish="branch")
    assert state.is_failed()
    assert state.message == "1 of 1 trials failed; nothing proposed: no trial was trained"
    assert "- trial-x: Refused: train: diverges" in shown[0]


@pytest.mark.parametrize(
    ("grid", "share", "remote", "reason"),
    [
        ({}, 0, "", ABOVE),
        ({"train.validation_fraction": [0.1, 0]}, 0.1, "", ABOVE),
        ({}, 0.1, NEAR, "DVC remote near: expected an address or an absolute"),
    ],
)
def test_search_that_cannot_rank_or_keep_its_trials_is_refused(
    tmp_path, grid, share, remote, reason
):
    """No images to rank by, in params.yaml or the grid; data where no clone would find them."""
    texts = {"params.yaml": f"train: {{validation_fraction: {share}}}", ".dvc/config": remote}
    repository(tmp_path, texts)
    with pytest.raises(InputError, match=reason):
        search.check_ranking(tmp_path, grid, "none")
    (tmp_path / ".dvc/config").write_text("")
    search.check_ranking(tmp_path, {"train.validation_fraction": [0.1]}, "none")


def test_a_checkout_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """In a container, say: the ranking is shown all the same, and why nothing lies in build/."""
    (tmp_path / "build").touch()
    monkeypatch.setattr(search, "BUILD", tmp_path / "build/search")
    shown = Mock()
    monkeypatch.setattr(search.artifacts, "create_markdown_artifact", shown)
    search.show(pd.DataFrame({"train.lr": [1.0]}), "the ranking", {})
    assert shown.call_args.args == ("the ranking",)
    text, why = capsys.readouterr().out.split("\n\n")
    assert text == "the ranking"
    assert why.startswith("no trials.csv or trials.png: ")


@pytest.mark.parametrize(("own", "server", "status"), [(0, None, 0), (1, None, 1), (None, 1, 2)])
def test_without_a_server_the_search_has_one_of_its_own(tmp_path, monkeypatch, own, server, status):
    """It searches this checkout's commit, and ends as the search does, or when its server ends.

    Server and search are stand-ins here; make test-slow runs the real ones.
    """
    started = []

    def stand_in(*words: str) -> list[str]:
        started.append(words)
        return ["sh", "-c", "sleep 100" if own is None else f"exit {own}"]

    others = nullcontext([SimpleNamespace(poll=lambda: server)])
    for name, value in (
        ("temporary_clone", lambda *_: nullcontext(tmp_path)),
        ("plan", lambda *_: None),
        ("check_ranking", lambda *_: None),
        ("BUILD", tmp_path),
        ("service", lambda *_, **__: others),
        ("leashed", stand_in),
    ):
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    words = ('{"train.lr": [1]}', "parallel=1")
    with temporary_settings({PREFECT_API_URL: ""}):
        assert exit_status(search.main, *words) == status
    here = (f"repository={search.ROOT}", "branch=")
    assert started == [(sys.executable, "-m", "flows.search", words[0], *here, words[1])]
