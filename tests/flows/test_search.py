"""A search on a real server: trials on two workers as on two machines, results in git."""

import re
import subprocess
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
from conftest import copy_of_project, dvc, git, python, refusal, set_params
from flows import clones, coordinator, search
from flows.clones import temporary_clone
from flows.trial import ref_of
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled
from service import (
    NEAR,
    Service,
    bare,
    change,
    quick_project,
    repository,
    small_registry,
    wait_until,
)

from mnist_pipeline.files import InputError
from mnist_pipeline.review.ranking import FAULT, NAME, SCORE

ABOVE = "train.validation_fraction: expected above 0"
GRID = '{"train.lr": [0.5, 4.0], "train.seed": [1, 2]}'


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare repository of quick stages; nothing was published yet."""
    return bare(quick_project(tmp_path_factory.mktemp("search") / "seed"))


def trials(service: Service) -> dict[str, list[Any]]:
    """Name → runs of every trial that was ordered so far."""
    found: dict[str, list[Any]] = {}
    for run in service.runs("trial"):
        found.setdefault(run["name"], []).append(run)
    return found


@pytest.fixture(scope="module")
def done(service: Service, origin: Path) -> subprocess.CompletedProcess[str]:
    """A search over learning rates, of which one is far too great."""
    words = ("-m", "flows.search", GRID, f"repository={origin}", "parallel=2")
    return python(*words, cwd=service.checkout, **service.environment)


def test_failed_trials_are_reported_and_the_rest_goes_on(service, done):
    """With the stage's own line, and exit status 1; no second attempt, as it would not help."""
    assert done.returncode == 1, done.stdout + done.stderr
    faults = re.findall(r"^- trial-\w{12}: Refused: train: error: (.*)", done.stdout, re.MULTILINE)
    assert len(faults) == 2
    assert all("finite" in fault for fault in faults), faults
    assert [len(runs) for runs in trials(service).values()] == [1] * 4

    def attempts() -> list[int]:
        tasks = service.api("POST", "task_runs/filter", flows={"name": {"any_": ["trial"]}})
        return [task["run_count"] for task in tasks if task["name"].startswith("train")]

    wait_until(lambda: attempts() == [1] * 4, 60, "the server knows the tasks")


def test_no_more_trials_at_once_than_asked_for(service, done):
    """The next trial is ordered when another one has ended."""
    times = [(run["created"], run["end_time"]) for runs in trials(service).values() for run in runs]
    spans = [[datetime.fromisoformat(each) for each in pair] for pair in times]
    assert all(sum(begin <= at < end for begin, end in spans) <= 2 for at, _ in spans)


def test_both_machines_have_trained(service, done):
    """Each has a cache of its own, with the weights of what it trained."""
    for home in ("one", "two"):
        cached = (service.folder / home / "mnist_pipeline/retrain/cache/files").rglob("*")
        assert any(path.is_file() and b"searched" in path.read_bytes() for path in cached)


def test_table_and_experiments_agree(service, origin, done):
    """Two experiments on origin, with the names and accuracies of the table."""
    table = pd.read_csv(service.checkout / "build/search/trials.csv")
    trained = table.dropna(subset=["validation_accuracy"])
    refs = git(origin, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    found = {}
    for ref in refs:
        history = git(origin, "show", f"{ref}:metrics/history.csv")
        found[ref.rpartition("/")[2]] = float(history.rpartition(",")[2])
    assert found == dict(zip(trained["experiment"], trained["validation_accuracy"], strict=True))
    assert len(found) == 2
    mean = f"{100 * sum(found.values()) / 2:.2f} %"
    assert re.search(rf"^\| +0\.5 +\| {mean} +\|", done.stdout, re.MULTILINE)


def test_commands_for_the_next_step_work(service, origin, done, tmp_path):
    """Somebody else can run each line of the block that the search prints, in a clone."""
    git(tmp_path, "clone", "--quiet", str(origin), "clone")
    (block,) = re.findall(r"^```\n(.*?)^```", done.stdout, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        where = {"cwd": tmp_path / "clone", "env": service.environment}
        assert subprocess.run(line.split(), **where, check=False).returncode == 0, line


def test_search_from_the_dashboard_proposes_the_best(service, origin, done):
    """The deployment takes the same parameters; the best goes to a branch, main stays.

    Of what another search has tried, only the trial that failed is tried again.
    """
    before, known = git(origin, "rev-parse", "main"), trials(service)
    grid = {"train.lr": [0.5, 4.0], "train.seed": [1]}
    run = service.run("search/manual", grid=grid, repository=str(origin), publish="branch")
    message = service.wait(run, "FAILED")["message"]
    assert re.match(r"1 of 2 trials failed; retrain/\w{12}: the first publication", message)
    ranking = service.artifacts(run)["search-ranking"]
    (fault,) = re.findall(r"^- (trial-\w{12}): Refused", ranking, re.MULTILINE)
    again = {name for name, runs in trials(service).items() if len(runs) > len(known[name])}
    assert again == {fault}
    assert re.search(r"^\| +0\.5 .* trial-\w{12} +\|$", ranking, re.MULTILINE)
    assert re.search(r"^\| +4 .* – +\|$", ranking, re.MULTILINE)
    assert git(origin, "rev-parse", "main") == before
    branch = re.search(r"retrain/\w{12}", message)[0]
    changed = git(origin, "diff", "--name-only", f"main...{branch}").split()
    assert {"dvc.lock", "params.yaml", "metrics/history.csv"} <= {*changed}


def test_deleted_runs_neither_answer_nor_are_waited_for(service, monkeypatch):
    """A run under way is found; after its end another is ordered, whatever people have deleted."""
    monkeypatch.setattr(coordinator, "POLL", 0)
    trials = SimpleNamespace(repository="", commit="")
    with temporary_settings({PREFECT_API_URL: service.url}), get_client(sync_client=True) as client:
        order = partial(coordinator.Trials.submit, trials, client, "trial-x", {}, delay=3600)
        first = order()
        assert order() == first
        client.set_flow_run_state(first, Cancelled())
        second = order()
        client.set_flow_run_state(second, Cancelled())
        client.delete_flow_run(first)
        third, ours = order(), SimpleNamespace(id=str(second))
        assert third not in {first, second}
        monkeypatch.setattr(coordinator, "flow_run", ours)
        assert [*coordinator.ended(client, [second, third])] == [second]
        client.delete_flow_run(third)
        assert coordinator.ended(client, [third])[third].message == "its run was deleted"
        client.delete_flow_run(second)  # the other tests count the trials


def test_refused_before_any_trial(service, done):
    """What only the schemas of params.yaml can see: the run ends as Refused, with exit status 2."""
    before = trials(service)
    words = ("-m", "flows.search", '{"train.lr": [-1.0]}', f"repository={service.origin}")
    refused = python(*words, cwd=service.checkout, **service.environment)
    assert refused.returncode == 2
    said = refused.stdout + refused.stderr
    assert "values: train.lr: expected greater than 0, found -1.0" in said
    assert trials(service).keys() == before.keys()


def test_refused_before_a_server_starts(tmp_path, monkeypatch, capsys):
    """Also if this machine would search by itself: one line, and exit status 2."""
    monkeypatch.setattr(clones, "HOME", tmp_path)
    monkeypatch.setattr(search, "service", lambda *_, **__: pytest.fail("it was started"))
    for grid, says in (
        ("", 'grid: expected values, such as {"train.lr": [0.5, 1]}, found none'),
        ("{}", 'grid: expected values, such as {"train.lr": [0.5, 1]}, found none'),
        ('{"lr": [1]}', "grid: lr: expected a section and a name, such as train.lr"),
        ('{"train.lr": 0.5}', "grid: train.lr: expected a list or a range, found 0.5"),
        ('{"train.lr": []}', "grid: train.lr: expected a list or a range, found []"),
        ('{"train.lr": {"low": 1}}', "grid: train.lr.high: expected a value, found none"),
        ('{"train.seed": {"low":1,"high":9}}', "grid: train.seed: expected a list, found a range"),
    ):
        with temporary_settings({PREFECT_API_URL: ""}):
            assert refusal(search.main, capsys, grid).startswith(says)
    with temporary_settings({PREFECT_API_URL: ""}):
        assert refusal(search.main, capsys, "{}", "grid=x").endswith("[0.5, 1]}, found x")


def test_what_is_refused_is_the_commits(tmp_path, monkeypatch, capsys):
    """A clone is searched: edits and remotes that only the checkout has do not count.

    The check of the grid is left out: it loads torch, and reads the same clone.
    """
    checkout = copy_of_project(tmp_path / "checkout")
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


def test_search_with_nothing_prepared(tmp_path):
    """No server, no remote: experiments and data land in the checkout, and every process ends.

    Data that dvc add tracks come from the checkout, too.
    """
    checkout = quick_project(tmp_path / "checkout")
    (checkout / "own").write_text("data")
    assert dvc(checkout, "add", "own").returncode == 0
    stages = (
        (checkout / "dvc.yaml").read_text().replace("train.py\n", "train.py\n    deps: [own]\n")
    )
    (checkout / "dvc.yaml").write_text(stages)
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=data")
    own = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own |= {"PYTHONPATH": f"{checkout / 'src'}:{checkout}", "TMPDIR": str(tmp_path)}
    words = ("-m", "flows.search", '{"train.seed": [1]}', "parallel=1")
    done = python(*words, cwd=checkout, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (checkout / "build/search/service.log").stat().st_size > 0
    everyone = psutil.process_iter(["environ"])
    assert not [one for one in everyone if own.items() <= (one.info["environ"] or {}).items()]
    (name,) = re.findall(r"dvc exp apply (trial-\w{12})", done.stdout)
    assert dvc(checkout, "exp", "apply", name).returncode == 0
    assert "up to date" in dvc(checkout, "status").stdout
    assert (checkout / "models/exported").read_text() == "searched 1.0 1"
