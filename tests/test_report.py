"""The report on real repositories: from git alone, and never more than its files say."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, copy_of_project, dvc, git
from dvc.repo.experiments.refs import ExpRefInfo
from ruamel.yaml import YAML

from mnist_pipeline import report, stage, stages
from mnist_pipeline.noise_file import configuration
from mnist_pipeline.render import markdown
from mnist_pipeline.report import build
from mnist_pipeline.results import ERRORS, LOCK, METRICS
from mnist_pipeline.schema import Report
from mnist_pipeline.stage import InputError

HEAD, *ROWS = (ROOT / ERRORS).read_text().splitlines()
PARAMS, ENVIRONMENT, NOISE = "params.yaml", "metrics/environment.json", "metrics/noise.json"
FREE = sorted(set(range(10_000)) - {int(row.split(",")[0]) for row in ROWS})  # right answers


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """This checkout as a repository with one commit, without data, cache or remote."""
    return copy_of_project(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def repo(origin, tmp_path, monkeypatch):
    """A clone of it, as the working folder."""
    git(tmp_path, "clone", "--quiet", "--shared", str(origin), "repo")
    monkeypatch.chdir(tmp_path / "repo")
    return tmp_path / "repo"


def lock(repo: Path, *names: str) -> None:
    """Have dvc.lock name files as they are now, as if a stage had written them."""
    tree = YAML(typ="safe").load(repo / LOCK)
    for each in tree["stages"].values():
        for entry in [*each.get("deps", []), *each["outs"]]:
            if entry["path"] in names:
                content = (repo / entry["path"]).read_bytes()
                entry |= {"md5": hashlib.md5(content).hexdigest(), "size": len(content)}  # noqa: S324
    YAML().dump(tree, repo / LOCK)


def plant(repo: Path, fixed: int = 0, broken: int = 0, **metrics) -> None:
    """A result with so many errors less and so many more, and dvc.lock to go with it."""
    new = [f"{index},{index % 10},{(index + 3) % 10},0.700000" for index in FREE[:broken]]
    rows = sorted([*ROWS[fixed:], *new], key=lambda row: int(row.split(",")[0]))
    (repo / ERRORS).write_text("\n".join([HEAD, *rows]) + "\n")
    numbers = json.loads((repo / METRICS).read_text())
    correct = numbers["total"] - len(rows)
    numbers |= {"correct": correct, "accuracy": round(correct / numbers["total"], 6)}
    (repo / METRICS).write_text(json.dumps(numbers | metrics, indent=2) + "\n")
    lock(repo, ERRORS, METRICS)


def commit(repo: Path) -> str:
    """Commit everything; its hash."""
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "--allow-empty", "--message=change")
    return git(repo, "rev-parse", "HEAD").strip()


def status(monkeypatch, *words: str) -> int:
    """The exit status of the report as a program."""
    monkeypatch.setattr(sys, "argv", ["report", *words])
    with pytest.raises(SystemExit) as end:
        stage.run(report.main)
    return end.value.code


def printed(monkeypatch, capsys, expected: int, *words: str) -> Report:
    """What the program prints as data, when asked for a status, which is the expected one."""
    assert status(monkeypatch, *words, "--json", "--fail-on", "regression") == expected
    captured = capsys.readouterr()
    assert captured.err == ""
    return Report.model_validate_json(captured.out)


def test_two_equal_commits_do_not_differ(repo):
    """p = 1, nothing stale, nothing to list; no data, no cache and no remote were needed."""
    commit(repo)
    found = build("origin/main", "HEAD")
    assert found.verdict == "no evidence of a difference"
    assert (found.evidence.fixed, found.evidence.broken, found.evidence.p_value) == (0, 0, 1.0)
    assert found.head.stale == found.base.stale == []
    assert found.metrics == found.parameters == found.environment == found.stages == []
    assert found.notes == []
    for name in ("data", "models", ".dvc/cache"):
        assert not (repo / name).exists()


def test_nothing_heavy_is_imported():
    """The report waits for neither torch, pandas nor matplotlib, nor imports dvc itself."""
    heavy = "{'torch', 'pandas', 'matplotlib', 'sklearn', 'scipy.stats', 'dvc'}"
    program = f"import sys, mnist_pipeline.report; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_planted_improvement_is_found(repo):
    """Forty errors less: p = 2 / 2**40; each with its label and what it was taken for."""
    plant(repo, fixed=40)
    found = build("origin/main", None)
    assert found.verdict == "improvement"
    assert found.evidence.p_value == pytest.approx(2 / 2**40)
    rows = [[int(cell) for cell in row.split(",")[:3]] for row in ROWS[:40]]
    assert [[each.index, each.label, each.old] for each in found.fixed] == rows
    assert all(each.new == each.label for each in found.fixed)
    assert found.broken == []


def test_planted_regression_is_found(repo, monkeypatch, capsys):
    """Forty errors more, committed with their lock: exit status 1, and nothing else amiss."""
    plant(repo, broken=40)
    head = commit(repo)
    found = printed(monkeypatch, capsys, 1, "--base", "origin/main", "--head", head)
    assert (found.verdict, found.evidence.fixed, found.evidence.broken) == ("regression", 0, 40)
    expected = [(index, index % 10, index % 10, (index + 3) % 10) for index in FREE[:40]]
    assert [(each.index, each.label, each.old, each.new) for each in found.broken] == expected
    assert found.head.stale == found.stages == []
    better = {each.name: each.better for each in found.metrics}
    assert better == {"accuracy": False, "correct": False}


def test_a_few_flips_are_no_evidence(repo, monkeypatch, capsys):
    """Five one way may be chance: exit status 0."""
    plant(repo, broken=5)
    found = printed(monkeypatch, capsys, 0, "--base", "origin/main")
    assert found.verdict == "no evidence of a difference"
    assert found.evidence.p_value == pytest.approx(0.0625)
    assert found.evidence.least is None


def test_stale_lock_is_the_first_thing_said(repo, monkeypatch, capsys):
    """An uncommitted parameter: a warning, the stages affected, and no failure."""
    path = repo / PARAMS
    path.write_text(path.read_text().replace("gamma: 0.7 ", "gamma: 0.8 "))
    found = printed(monkeypatch, capsys, 0, "--base", "origin/main")
    assert markdown(found).startswith("**Warning: dvc.lock is stale.**")
    assert found.head.stale == [
        "train: params.yaml: train: modified",
        "evaluate: follows train",
        "save: follows train, evaluate",
    ]
    assert found.base.stale == []
    affected = [(each.name, each.changed) for each in found.stages]
    assert affected == [("train", ["params.yaml: train"]), ("evaluate", []), ("save", [])]
    (gamma,) = found.parameters
    assert (gamma.name, gamma.old, gamma.new) == ("train.gamma", 0.7, 0.8)


def test_stages_affected_follow_the_graph(repo):
    """A module of evaluate alone leaves download and train; a file of no stage affects none."""
    with (repo / "src/mnist_pipeline/evaluate.py").open("a") as file:
        file.write("# changed\n")
    with (repo / "README.md").open("a") as file:
        file.write("changed\n")
    found = build("origin/main", None)  # uncommitted
    assert [(each.name, each.changed, each.after) for each in found.stages] == [
        ("evaluate", ["src/mnist_pipeline/evaluate.py"], []),
        ("save", [], ["evaluate"]),
    ]
    assert found.head.stale == [
        "evaluate: src/mnist_pipeline/evaluate.py: modified",
        "save: follows evaluate",
    ]
    lock(repo, "src/mnist_pipeline/evaluate.py")  # as if it had been run since
    found = build("origin/main", commit(repo))
    assert [each.name for each in found.stages] == ["evaluate", "save"]
    assert found.head.stale == []


def test_changed_command_is_an_input(repo):
    """Of its stage, and what dvc.lock does not have."""
    path = repo / "dvc.yaml"
    path.write_text(path.read_text().replace("mnist_pipeline.save\n", "mnist_pipeline.save -O\n"))
    found = build("origin/main", None)
    assert [(each.name, each.changed, each.after) for each in found.stages] == [
        ("save", ["cmd"], [])
    ]
    assert found.head.stale == ["save: changed command"]


@pytest.mark.parametrize(
    "text",
    [
        "stages: [x]",
        "stages: {a: x}",
        "stages: {a: {}}",
        "stages: {a: {cmd: x, deps: }}",
        "stages: {a: {cmd: x, deps: 1}}",
        pytest.param(f"stages:\n  ? 0x{'f' * 5000}\n  : {{cmd: x}}", id="longest"),
    ],
)
def test_odd_stages_are_refused(tmp_path, text):
    """Lists, texts and numbers where stages or their parts should be."""
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^dvc.yaml: expected stages"):
        stages.load(tmp_path)
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: x, deps: [{}, {b: {desc: c}}]}}")
    assert stages.load(tmp_path)["a"].deps == ("", "b")


HIDDEN = {  # a part of dvc.yaml, and what stands there instead
    "frozen": ("    params: [runtime, train]", "    frozen: true\n    params: [runtime, train]"),
    "elsewhere": ("src/mnist_pipeline/model.py", "http://127.0.0.1:9/model.py"),
    "absolute": ("src/mnist_pipeline/model.py", "/dev/zero"),
    "above": ("src/mnist_pipeline/model.py", "src/../../model.py"),
    "template": ("src/mnist_pipeline/model.py", '"\\u0024{data.source}"'),  # ${data.source}
    "parameter": ("    params: [save]", "    params: ['${data.source}']"),
    "parameters": ("    params: [save]", "    params: [{other.yaml: [save]}]"),
    "vars": ("stages:", "vars: [other.yaml]\nstages:"),
    "many": ("stages:", "stages:" + "".join(f"\n  s{number}: {{cmd: x}}" for number in range(100))),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_what_hides_a_change_is_not_followed(repo, monkeypatch, capsys, kind):
    """What dvc would fetch, read elsewhere or ignore: not started, a warning, exit status 2."""
    path = repo / "dvc.yaml"
    old, new = HIDDEN[kind]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    found = printed(monkeypatch, capsys, 2, "--base", "origin/main")
    assert found.head.stale is None
    assert any(note.startswith("head: dvc.yaml: ") for note in found.notes)
    with pytest.raises(InputError, match=r"^dvc.yaml: "):
        stages.status(repo)


def test_files_of_dvc_elsewhere_are_not_followed(repo):
    """dvc.yaml's stages alone are asked for: another file of DVC's could name any address."""
    text = "deps:\n- path: http://127.0.0.1:9/file\n  etag: x\nouts:\n- path: file\n  md5: x\n"
    (repo / "other.dvc").write_text(text)
    assert build("origin/main", None).head.stale == []


DROPPED = {  # of the stage train in dvc.yaml, and what the warning names
    "      - src/mnist_pipeline/model.py\n": "src/mnist_pipeline/model.py",
    "    params: [runtime, train]\n": "params.yaml: runtime",
    "metrics/environment.json:\n": "metrics/environment.json",
}


@pytest.mark.parametrize("text", DROPPED)
def test_dropped_inputs_and_outputs_are_stale(repo, text):
    """dvc looks no more at what its lock's run read or wrote; the stage counts as changed."""
    path = repo / "dvc.yaml"
    start, found, end = path.read_text().partition("  train:\n")
    assert text in end
    instead = "metrics/other.json:\n" if text.startswith("metrics") else ""
    path.write_text(start + found + end.replace(text, instead, 1))
    changed = build("origin/main", None)
    assert f"train: {DROPPED[text]}: in dvc.lock, not in dvc.yaml" in changed.head.stale
    assert "train" in [each.name for each in changed.stages]


def test_dropped_stage_is_stale(repo):
    """Its results stay in git, and nothing makes them any more."""
    path = repo / "dvc.yaml"
    text = path.read_text()
    path.write_text(text[: text.index("  evaluate:\n")] + text[text.index("  save:\n") :])
    assert "evaluate: not in dvc.yaml" in build("origin/main", None).head.stale


def test_half_a_run_is_stale(repo):
    """Weights in dvc.lock that evaluate has not seen, though dvc status without data is content."""
    tree = YAML(typ="safe").load(repo / LOCK)
    (weights,) = [o for o in tree["stages"]["train"]["outs"] if o["path"].startswith("models/")]
    weights["md5"] = "0" * 32
    YAML().dump(tree, repo / LOCK)
    what = f"{weights['path']}: another one than dvc.lock has as an output"
    assert build("origin/main", None).head.stale == [f"evaluate: {what}", f"save: {what}"]


def test_lost_module_is_stale(repo):
    """What git holds and is gone is not merely data that is elsewhere."""
    (repo / "src/mnist_pipeline/save.py").unlink()
    assert build("origin/main", None).head.stale == ["save: src/mnist_pipeline/save.py: deleted"]


def test_metrics_edited_by_hand_are_stale_and_not_judged(repo, monkeypatch, capsys):
    """Though they agree with each other: dvc.lock names other ones."""
    before = (repo / LOCK).read_text()
    plant(repo, fixed=40)
    (repo / LOCK).write_text(before)
    assert status(monkeypatch, "--base", "origin/main", "--fail-on", "regression") == 2
    text = capsys.readouterr().out
    assert text.startswith("**Warning: dvc.lock is stale.**")
    assert "`evaluate: metrics/errors.csv: modified`" in text
    assert "**Not comparable**: no result: `metrics/metrics.json: edited by hand" in text
    assert "Improvement" not in text


def test_stale_base_is_said(repo):
    """The difference may then be the base's own."""
    path = repo / PARAMS
    path.write_text(path.read_text().replace("seed: 1 ", "seed: 2 "))
    commit(repo)
    plant(repo, fixed=40)
    found = build("HEAD", None)
    assert found.base.stale[0] == "train: params.yaml: train: modified"
    assert "**Warning: the base's dvc.lock is stale.**" in markdown(found)


def test_other_test_set_is_not_comparable(repo, monkeypatch, capsys):
    """By the MD5 of its files in dvc.lock; exit status 2 where a verdict was asked for."""
    plant(repo, broken=40)
    path = repo / LOCK
    path.write_text(path.read_text().replace("9fb629c4189551a2d022fa330f9573f3", "0" * 32))
    words = ("--base", "origin/main")
    assert status(monkeypatch, *words, "--fail-on", "regression") == 2
    assert "**Not comparable**: another test set" in capsys.readouterr().out
    assert status(monkeypatch, *words) == 0


@pytest.mark.parametrize("side", ["head", "base"])
def test_dry_run_is_not_comparable(repo, side):
    """On either side."""
    plant(repo, dry_run=True)
    if side == "base":
        commit(repo)
        plant(repo, broken=40, dry_run=False)
    found = build("HEAD", None)
    assert (found.verdict, found.reason) == ("not comparable", "a dry run")
    assert found.detail.startswith(f"the {side}'s")


ODD = {
    "missing": None,
    "empty": b"",
    "binary": b"\xff\x00\xfe",
    "list": b"[1, 2]",
    "NaN": b'{"accuracy": NaN, "loss": 1e999}',
    "deep": b"[" * 1000,
    "large": b"x" * 6_000_000,
    "aliases": b"stages: &a\n  evaluate: *a\n",
}
JUDGED = (METRICS, ERRORS, LOCK)
OTHERS = (PARAMS, ENVIRONMENT, NOISE, "dvc.yaml", "metrics/history.csv")


def spoil(path: Path, content: bytes | None) -> None:
    """Remove a file, or write something else into it."""
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("side", ["base", "head"])
def test_odd_files_are_never_a_verdict(origin, tmp_path, side, kind):
    """Each file in turn, missing or malformed, on either side: no traceback, and said by name.

    Without one of the three that a verdict rests on there is none; the others become notes.
    """
    both = tmp_path / "base", tmp_path / "head"
    for folder in both:
        shutil.copytree(origin, folder, ignore=shutil.ignore_patterns(".git"))
    folder = tmp_path / side
    for name in (*JUDGED, *OTHERS):
        if name == NOISE and kind == "missing":
            continue  # not measured yet: nothing is wrong with that
        before = (folder / name).read_bytes() if (folder / name).exists() else None
        spoil(folder / name, ODD[kind])
        notes: list[str] = []
        results = [report.sound(each) for each in both]
        found = report.judge(*results) | {"spread": report.spread(both, notes)}
        found |= report.look(both, {name}, notes)
        if name == "metrics/history.csv":
            report.illustrate(both, results, tmp_path / "pictures", notes)
        spoil(folder / name, before)
        if name in JUDGED:
            reason = "no baseline" if side == "base" else "no result"
            assert (found["verdict"], found["reason"]) == ("not comparable", reason)
            assert found["detail"].startswith(f"{name}: ")
        else:
            assert found["verdict"] == "no evidence of a difference"
            odd_but_read = kind == "NaN" and name in (PARAMS, ENVIRONMENT)
            assert any(name in note for note in notes) or odd_but_read
        assert all("\n" not in note for note in notes)


@pytest.mark.parametrize("kind", ["missing", "aliases"])
@pytest.mark.parametrize("name", ["dvc.yaml", LOCK, PARAMS])
def test_nothing_is_fine_where_dvc_gives_up(repo, monkeypatch, capsys, name, kind):
    """The whole report on what dvc status needs: a warning first, and exit status 2."""
    spoil(repo / name, ODD[kind])
    found = printed(monkeypatch, capsys, 2, "--base", "origin/main")
    assert found.head.stale != []
    assert found.base.stale == []
    assert markdown(found).startswith("**Warning: ")
    assert any(note.startswith("head: ") for note in found.notes)


def test_strange_texts_are_inert(repo):
    """Keys and values of metrics and parameters: shown as code, without what could act."""
    evil = "<img src=x> @octocat #1 [a](http://x)|`\n\u202e" + "y" * 300
    tree = YAML(typ="safe").load(repo / PARAMS)
    tree["train"][evil] = evil
    tree["log"]["interval"] = float("nan")
    tree["log"]["many"] = 10**400
    YAML().dump(tree, repo / PARAMS)
    plant(repo, **{evil: evil, "\ud800": 1, "10": 10**300})
    text = markdown(build("origin/main", None))
    shown = [line for line in text.splitlines() if "octocat" in line]
    assert len(shown) >= 2
    for line in shown:
        assert line.startswith(("| `", "- `"))
        outside = "".join(line.split("`")[::2])
        assert not set("<@#[\u202e") & set(outside)
    assert "`nan`" in text


def test_thousands_of_keys_are_refused(repo):
    """A note, and no table; the verdict stands."""
    with (repo / PARAMS).open("a") as file:
        file.write("".join(f"k{number}: 1\n" for number in range(1001)))
    found = build("origin/main", None)
    assert found.parameters is None
    assert any("at most 1,000 values" in note for note in found.notes)
    assert found.evidence is not None


def test_links_are_not_followed(repo, tmp_path):
    """A commit with a link in the place of a file says nothing of the file behind it."""
    shutil.copy(repo / METRICS, tmp_path / "secret.json")
    (repo / METRICS).unlink()
    (repo / METRICS).symlink_to(tmp_path / "secret.json")
    found = build("origin/main", commit(repo))
    assert (found.verdict, found.reason) == ("not comparable", "no result")
    assert "expected JSON" in found.detail


def test_experiments_of_dvc_are_names(repo):
    """As head and as base; an experiment as base is taken as it is, not where it began."""
    began = git(repo, "rev-parse", "HEAD").strip()
    for name, fixed in (("better", 40), ("best", 43)):
        plant(repo, fixed=fixed)
        commit(repo)
        git(repo, "update-ref", str(ExpRefInfo(began, name)), "HEAD")
        git(repo, "reset", "--quiet", "--hard", began)
    assert {"better", "best"} <= set(dvc(repo, "exp", "list", "--name-only").stdout.split())
    found = build("origin/main", "better")
    assert (found.head.name, found.base.commit, found.evidence.fixed) == ("better", began, 40)
    found = build("better", "best")
    assert (found.base.name, found.evidence.fixed, found.evidence.broken) == ("better", 3, 0)
    git(repo, "update-ref", str(ExpRefInfo("0" * 40, "best")), began)
    with pytest.raises(InputError, match=r"best: .* found 2 experiments of this name"):
        build("origin/main", "best")


def test_base_is_where_the_head_left_it(repo):
    """What happened on the base since is not the head's doing."""
    left = git(repo, "rev-parse", "HEAD").strip()
    git(repo, "checkout", "--quiet", "-b", "change")
    plant(repo, broken=3)
    commit(repo)
    git(repo, "checkout", "--quiet", "main")
    plant(repo, fixed=40)
    commit(repo)
    found = build("main", "change")
    assert (found.base.commit, found.base.name) == (left, "merge base with main")
    assert (found.evidence.fixed, found.evidence.broken) == (0, 3)


def test_no_history_in_common_is_refused(repo):
    """One line that says so."""
    git(repo, "checkout", "--quiet", "--orphan", "other")
    commit(repo)
    with pytest.raises(InputError, match=r"origin/main: expected a commit in common with \w{7}"):
        build("origin/main", None)


def test_shallow_clone_takes_no_older_base(repo, tmp_path, monkeypatch, capsys):
    """Where the true merge base may have been cut off, another one's verdict would be wrong."""
    git(repo, "branch", "side")
    plant(repo, broken=40)
    commit(repo)
    git(repo, "branch", "change")
    for branch in ("side", "change", "main"):
        git(repo, "checkout", "--quiet", branch)
        for _ in range(5 if branch == "main" else 1):
            git(repo, "commit", "--quiet", "--allow-empty", f"--message={branch}")
    git(repo, "merge", "--quiet", "--no-edit", "side")
    words = ("clone", "--quiet", "--depth=3", "--no-single-branch", f"file://{repo}", "shallow")
    git(tmp_path, *words)
    shallow = tmp_path / "shallow"
    assert git(shallow, "merge-base", "origin/main", "origin/change")  # there is an older one
    monkeypatch.chdir(shallow)
    words = ("--base", "origin/main", "--head", "origin/change", "--fail-on", "regression")
    assert status(monkeypatch, *words) == 2
    assert capsys.readouterr().err.endswith("this clone is shallow: git fetch --unshallow\n")
    monkeypatch.chdir(repo)
    assert status(monkeypatch, "--base", "main", "--head", "change", "--fail-on", "regression") == 0


def test_head_that_the_base_has_is_refused(repo):
    """It would be compared with itself."""
    plant(repo, broken=40)
    commit(repo)
    with pytest.raises(InputError, match=r"^HEAD~1: expected a commit that HEAD does not have"):
        build("HEAD", "HEAD~1")
    assert build("HEAD", "HEAD").evidence.p_value == 1


def test_folder_below_the_top_is_refused(repo, monkeypatch):
    """Whose files would all be missing."""
    monkeypatch.chdir("src")
    with pytest.raises(InputError, match=r"^src/: expected the repository's top folder"):
        build("HEAD", None)


def test_hook_in_a_worktree_changes_no_repository(repo, tmp_path):
    """Git tells its hooks and aliases which repository is theirs: it is left as it was."""
    (repo / "file").touch()
    commit(repo)
    git(repo, "worktree", "add", "--quiet", str(tmp_path / "linked"), "-b", "linked")
    before = (repo / ".git/config").read_bytes()
    command = f"!{sys.executable} -m mnist_pipeline.report --base HEAD~1 --head HEAD --json"
    done = subprocess.run(
        ["git", "-c", f"alias.compare={command}", "compare"],
        cwd=tmp_path / "linked",
        capture_output=True,
        text=True,
        check=True,
    )
    assert (repo / ".git/config").read_bytes() == before
    found = Report.model_validate_json(done.stdout)
    assert found.base.stale == found.head.stale == []


def test_ends_of_lines_are_the_commits(repo):
    """Whatever this machine's git makes of them in a checkout."""
    (repo / "file").touch()
    commit(repo)
    git(repo, "config", "core.autocrlf", "true")
    found = build("HEAD~1", "HEAD")
    assert found.base.stale == found.head.stale == []


def test_other_labels_are_another_test_set(repo):
    """An image has one true digit."""
    path = repo / ERRORS
    head, *rows = path.read_text().splitlines()
    swapped = [f"{i},{p},{t},{c}" for i, t, p, c in (row.split(",") for row in rows)]
    path.write_text("\n".join([head, *swapped]) + "\n")
    lock(repo, ERRORS)
    found = build("origin/main", None)
    assert (found.verdict, found.reason) == ("not comparable", "another test set")


def test_bug_is_no_regression(repo, monkeypatch, capsys):
    """Whatever fails: one line and exit status 2, as 1 says that accuracy fell."""
    monkeypatch.setattr(report, "judge", lambda *_: 1 / 0)
    assert status(monkeypatch, "--base", "HEAD") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a bug of the report, ")
    assert line.endswith("ZeroDivisionError")


def test_truth_is_neither_better_nor_worse():
    """A metric that is true where a number was: it differs, and nobody can say how."""
    (change,) = report.changes({"accuracy": 0.9}, {"accuracy": True})
    assert change.better is None


def test_closed_output_leaves_the_status(repo):
    """Nothing can be printed; the exit status says the verdict all the same."""
    command = f"{sys.executable} -m mnist_pipeline.report --base HEAD --fail-on regression >&-"
    done = subprocess.run(command, shell=True, cwd=repo, check=False)  # noqa: S602
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service is Linux's own")
def test_killed_report_leaves_no_process(repo, tmp_path):
    """dvc status ends with the report that started it, even by SIGKILL."""
    slow = tmp_path / "bin/dvc"
    slow.parent.mkdir()
    slow.write_text(
        f"#!/bin/sh\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\n"
        "exec sleep 600\n"
    )
    slow.chmod(0o755)
    environment = {"PATH": f"{slow.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "mnist_pipeline.report", "--base", "HEAD"]
    with subprocess.Popen(command, cwd=repo, env=os.environ | environment) as process:
        while not (tmp_path / "pid").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    number = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{number}").exists():
            return
        time.sleep(0.1)
    pytest.fail("dvc status is still there")


def test_shallow_clone_says_what_to_do(repo, tmp_path, monkeypatch, capsys):
    """A history that was cut off: one line with the command that fetches the rest."""
    git(repo, "checkout", "--quiet", "-b", "change")
    (repo / "file").touch()
    commit(repo)
    git(repo, "checkout", "--quiet", "main")
    commit(repo)
    words = ("clone", "--quiet", "--depth=1", "--no-single-branch", f"file://{repo}", "shallow")
    git(tmp_path, *words)
    monkeypatch.chdir(tmp_path / "shallow")
    assert status(monkeypatch, "--base", "origin/change") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("this clone is shallow: git fetch --unshallow")
    assert status(monkeypatch, "--base", "origin/main") == 0
    assert capsys.readouterr().out.startswith("**No evidence of a difference**")


@pytest.mark.parametrize("name", ["nothing", "", "--all", "HEAD~9", "HEAD:README.md", "x\ny"])
def test_unknown_name_is_refused(repo, monkeypatch, capsys, name):
    """Neither a commit nor an experiment: one line, exit status 2, on either side."""
    for words in ([f"--base={name}"], ["--base=HEAD", f"--head={name}"]):
        if words[-1] == "--head=":
            continue  # the workspace
        assert status(monkeypatch, *words, "--fail-on", "regression") == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "expected a commit or an experiment of DVC, found none" in line


def test_no_repository_is_refused(tmp_path, monkeypatch, capsys):
    """One line, exit status 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert status(monkeypatch, "--base", "HEAD") == 2
    assert "expected a git repository" in capsys.readouterr().err


def test_spread_is_taken_where_it_was_measured(repo):
    """metrics/noise.json of this configuration is used, of another one not, an odd one is named."""
    runs = [
        {"seed": seed, "correct": 9914 + seed, "total": 10_000, "accuracy": (9914 + seed) / 10_000}
        for seed in (1, 2, 3)
    ]
    noise = {
        "configuration": configuration((repo / PARAMS).read_text(), (repo / LOCK).read_text()),
        "alpha": 0.05,
        "runs": runs,
        "standard_deviation": 0.0001,
        "pairs": [
            {"seeds": seeds, "fixed": 1, "broken": 0, "p_value": 1.0}
            for seeds in ([1, 2], [1, 3], [2, 3])
        ],
        "false_alarms": 0,
    }
    both, notes = (repo, repo), []
    (repo / NOISE).write_text(json.dumps(noise))
    found = report.spread(both, notes)
    assert found.reach == pytest.approx(4.302653 * 2**0.5 * 0.0001)
    assert (found.runs, found.pairs, found.false_alarms) == (3, 3, 0)
    (repo / NOISE).write_text(json.dumps(noise | {"configuration": "0" * 64}))
    assert report.spread(both, notes) is None
    assert notes == []
    (repo / NOISE).write_text(json.dumps(noise | {"false_alarms": 3}))
    assert report.spread(both, notes) is None
    assert len(notes) == 2  # one for each side, which here are the same
    assert all(note.startswith(f"{NOISE}: ") for note in notes)
