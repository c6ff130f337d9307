"""The report on real repositories: from git alone, and never more than its files say."""

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import exit_status, git, python, reproduce
from dvc.repo.experiments.refs import EXEC_BASELINE, ExpRefInfo
from pets import WRONG, commit, edit, lock, make_project, plant, plant_new, write
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.review import report
from mnist_pipeline.review.git import is_experiment, resolve
from mnist_pipeline.review.markdown import render
from mnist_pipeline.review.report import build
from mnist_pipeline.review.schema import Report
from mnist_pipeline.review.staleness import stale

CONFLICT = b"index,label,predicted,confidence\n<<<<<<< HEAD\n"  # errors.csv, in a merge
NEW = [f"7-{number:016}.png" for number in range(8)]  # images to test with
# pygtrie, which DVC uses, calls something of its own deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """The cats and dogs as they are committed."""
    return make_project(tmp_path_factory.mktemp("origin"))


@pytest.fixture
def repo(origin, tmp_path, monkeypatch) -> Path:
    """A clone of them, as the working folder."""
    git(tmp_path, "clone", "--quiet", "--shared", str(origin), "repo")
    monkeypatch.chdir(tmp_path / "repo")
    return tmp_path / "repo"


@pytest.fixture
def run(capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs the report as a program that is asked for a verdict: exit status, output, errors."""

    def program(*words: str) -> tuple[int, str, str]:
        status = exit_status(report.main, *words, "--fail-on", "regression")
        return status, *capsys.readouterr()

    return program


# The verdict


@pytest.mark.parametrize(
    ("fixed", "broken", "expected"),
    [
        (30, 2, ("improvement", 0)),
        (2, 30, ("regression", 1)),
        (0, 5, ("no evidence of a difference", 0)),
    ],
)
def test_planted_difference_is_found(repo, run, fixed, broken, expected):
    """Each image that differs by name, and exit status 1 for a regression alone."""
    plant(repo, fixed, broken, loss=0.5 if broken > fixed else 0.125)
    head = commit(repo)
    status, text, _ = run("--base=origin/main", f"--head={head}", "--json")
    found = Report.model_validate_json(text)
    assert (found.verdict, status) == expected
    assert (found.evidence.fixed, found.evidence.broken) == (fixed, broken)
    flips = {each.index: (each.label, each.old, each.new) for each in found.flips}
    labels = {index: "cat" if index % 2 else "dog" for index in flips}
    gone = {index: (labels[index], "owl", labels[index]) for index in range(fixed)}
    come = range(WRONG, WRONG + broken)
    assert flips == gone | {index: (labels[index], labels[index], "owl") for index in come}
    assert {each.name for each in found.changes} == {"accuracy", "correct", "loss"}
    assert found.head.stale == found.stages == found.notes == []


@pytest.mark.parametrize(
    ("differ", "expected"), [(8, ("regression", 1)), (5, ("too few to judge", 0))]
)
def test_new_images_have_a_verdict_of_their_own(repo, run, differ, expected):
    """On those that both models answered, beside what was added; a regression there counts, too."""
    (repo / "data/new/train").mkdir(parents=True)
    plant_new(repo, dict.fromkeys(NEW, "7"))
    base = commit(repo)
    new = f"3-{9:016}.png"
    now = dict.fromkeys(NEW, "7") | dict.fromkeys(NEW[:differ], "5")
    plant_new(repo, now | {new: "5"})
    shutil.copy(repo / "data/new/test" / new, repo / "data/new/train/trained.png")
    (repo / "data/new/train/._hidden.png").touch()  # a Mac's
    head = commit(repo)
    status, text, _ = run(f"--base={base}", f"--head={head}", "--json")
    whole = Report.model_validate_json(text)
    found = whole.new
    assert (found.verdict, status) == expected
    assert found.evidence.total == 8
    assert found.evidence.fixed + found.evidence.broken == differ
    assert found.added == [f"data/new/test/{new}", "data/new/train/trained.png"]
    text = render(whole)
    line = f"**{expected[0].capitalize()}** on the 8 new test images that both models answered"
    assert line in text
    assert "New images added: 1 to train with, 1 to test with; removed: 0; with another" in text


def test_new_images_that_go_or_get_another_label(repo, run):
    """A test set that shrinks, and a corrected label, are what a reviewer must see."""
    plant_new(repo, dict.fromkeys(NEW, "7"))
    base = commit(repo)
    gone, renamed = (repo / "data/new/test" / name for name in NEW[:2])
    gone.unlink()
    renamed.rename(renamed.with_name(f"1{renamed.name[1:]}"))
    text = run(f"--base={base}", f"--head={commit(repo)}")[1]
    assert "added: 0 to train with, 0 to test with; removed: 1; with another label: 1." in text
    assert f"| `data/new/test/{NEW[0][2:]}` | `{NEW[0][0]}` | – |" in text
    assert f"| `data/new/test/{NEW[1][2:]}` | `{NEW[1][0]}` | `1` |" in text


def test_first_result_of_a_project(repo, run):
    """Nothing to compare with: its numbers are shown, and nothing is stale or unreadable."""
    git(repo, "rm", "--quiet", "-r", "dvc.lock", "metrics")
    base = commit(repo)
    git(repo, "checkout", "--quiet", "HEAD~1", "--", "dvc.lock", "metrics")
    status, text, _ = run(f"--base={base}", f"--head={commit(repo)}", "--json")
    found = Report.model_validate_json(text)
    assert (found.verdict, status) == ("not comparable", 2)
    assert found.reason.startswith("no baseline: dvc.lock: expected a file")
    assert ("accuracy", None, 0.95) in {(each.name, each.old, each.new) for each in found.changes}
    assert found.base.stale == found.head.stale == found.notes == []


def test_answers_that_are_gone_are_told(repo, run):
    """The images are there, but the head's result has no answer for some: exit status 2."""
    plant_new(repo, dict.fromkeys(NEW, "7"))
    commit(repo)
    plant_new(repo, dict.fromkeys(NEW[1:], "7"))
    status, text, _ = run("--base=HEAD")
    assert status == 2
    assert "expected answers to all new test images, 1 are gone" in text
    (repo / "data/new/test" / NEW[0]).unlink()
    assert run("--base=HEAD")[0] == 0


def test_metrics_edited_by_hand_are_not_judged(repo, run):
    """Though they agree with each other: dvc.lock names other ones. Exit status 2."""
    before = (repo / "dvc.lock").read_text()
    plant(repo, fixed=40)
    (repo / "dvc.lock").write_text(before)
    status, text, _ = run("--base=origin/main")
    assert status == 2
    assert text.startswith("**Warning: dvc.lock is stale.**")
    assert "`evaluate: metrics/errors.csv: modified`" in text
    assert "**Not comparable**: `no result: metrics/metrics.json: expected the file whose" in text
    assert "found another one: run dvc repro, and commit dvc.lock and metrics/`" in text


@pytest.mark.parametrize("side", ["base", "head"])
def test_dry_run_is_not_comparable(repo, side):
    """On either side; its answers to new images are not judged either."""
    plant_new(repo, dict.fromkeys(NEW, "7"))
    plant(repo, dry_run=side == "base")
    commit(repo)
    plant_new(repo, dict.fromkeys(NEW, "5"))
    plant(repo, broken=40, dry_run=side == "head")
    found = build("HEAD", None)
    assert (found.verdict, found.reason) == ("not comparable", f"the {side} is a dry run")
    assert found.new is None


@pytest.mark.parametrize("what", ["hash", "labels"])
def test_other_test_set_is_not_comparable(repo, run, what):
    """Another MD5 in dvc.lock, or another label of the same image. Exit status 2."""
    if what == "hash":
        write(repo, "data/test.csv", "other images")
    else:
        edit(repo, "metrics/errors.csv", "0,dog,owl", "0,cat,owl")
    lock(repo)
    status, text, _ = run("--base=origin/main")
    assert status == 2
    assert "**Not comparable**: `another test set" in text


@pytest.mark.parametrize(
    ("side", "content"),
    [("head", None), ("head", b"\xff"), ("base", CONFLICT)],
)
@pytest.mark.parametrize(
    "name",
    ["metrics/metrics.json", "metrics/errors.csv", "dvc.lock", "dvc.yaml", "params.yaml"],
)
def test_missing_or_odd_file_is_never_fine(repo, run, side, name, content):
    """Each file in turn, also with git's marks of a conflict: exit status 2, and its name."""
    before = (repo / name).read_bytes()
    (repo / name).unlink()
    if content:
        (repo / name).write_bytes(content)
    commit(repo)
    if side == "base":
        (repo / name).write_bytes(before)
    status, text, error = run(f"--base={'HEAD' if side == 'base' else 'origin/main'}")
    assert (status, error) == (2, "")
    assert name in text
    assert "new images" not in text
    assert "/mnist_pipeline-report-" not in text


def test_no_message_names_the_temporary_folder(repo, tmp_path, monkeypatch):
    """Wherever it lies, and whoever says it."""
    (place := tmp_path / "my +place").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    (repo / "metrics/environment.json").unlink()
    commit(repo)
    write(repo, "dvc.yaml", {"stages": []})
    notes = build("HEAD", None).notes
    assert "head: 'dvc.yaml' validation failed" in notes
    assert "metrics: [Errno 2] No such file or directory: 'metrics/environment.json'" in notes


def test_bug_is_no_regression(repo, run, monkeypatch):
    """Whatever fails: one line and exit status 2, as 1 says that accuracy fell."""
    monkeypatch.setattr(report, "render", lambda *_: 1 / 0)
    status, _, error = run("--base=HEAD")
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("error: a bug in the report, ")


# What is stale, and what a change affects


def test_stale_lock_is_told(repo, run):
    """An uncommitted parameter: what follows from it, and no failure."""
    edit(repo, "params.yaml", "lr: 0.5", "lr: 0.25")
    status, text, _ = run("--base=origin/main", "--json")
    assert status == 0
    found = Report.model_validate_json(text)
    assert found.base.stale == []
    assert found.head.stale == [
        "train: params.yaml.train: modified",
        "evaluate: follows train",
        "save: follows train, evaluate",
    ]
    ((name, old, new),) = [(each.name, each.old, each.new) for each in found.changes]
    assert (name, old, new) == ("train.lr", 0.5, 0.25)


def test_stages_affected_are_those_of_the_change(repo):
    """Run since, and committed: nothing is stale, and what changed is told all the same."""
    edit(repo, "src/evaluate.py", "0.25", "0.5")
    write(repo, "README.md", "of no stage")
    lock(repo)
    found = build("origin/main", commit(repo))
    assert found.head.stale == []
    steps = [(each.name, each.changed, each.after) for each in found.stages]
    changed = ["src/evaluate.py: modified"]
    assert steps == [("evaluate", changed, []), ("save", [], ["evaluate"])]


def test_output_that_was_never_written_is_stale(repo):
    """It was added to dvc.yaml after the last run."""
    edit(repo, "dvc.yaml", "- models/weights\n", "- models/weights\n    - models/more\n")
    (first, *_) = stale(repo)
    assert first == "train: models/more: not in dvc.lock"


def test_input_in_a_folder_that_a_stage_writes_is_not_stale(repo):
    """dvc.lock has a single hash for the folder, and the data is not here."""
    edit(repo, "dvc.yaml", "- models/weights\n", "- models\n")
    edit(repo, "dvc.yaml", "- models/final\n", "- final\n")
    lock(repo)
    assert stale(repo) == []


def test_input_that_is_a_folder_of_outputs_is_not_stale(repo):
    """No stage records a hash of the folder, and the data is not here."""
    stages = YAML(typ="safe").load(repo / "dvc.yaml")
    stages["stages"]["evaluate"]["deps"].append("data")
    write(repo, "dvc.yaml", stages)
    lock(repo)
    assert stale(repo) == []


def test_half_a_run_is_stale_by_a_folder_in_git(repo):
    """The folder's files are here to compare."""
    stages = {
        "one": {
            "cmd": "mkdir -p copy; cp src/model.py copy",
            "deps": ["src/model.py"],
            "outs": [{"copy": {"cache": False}}],
        },
        "two": {"cmd": "true", "deps": ["copy/model.py"]},
    }
    write(repo, "dvc.yaml", {"stages": stages})
    (repo / "dvc.lock").unlink()
    reproduce(repo)
    assert stale(repo) == []
    edit(repo, "src/model.py", "2", "3")
    reproduce(repo, "one")
    assert stale(repo) == ["two: copy/model.py: modified"]


def test_data_on_another_disk(repo, tmp_path):
    """One link replaces a folder, another one leads to a file that git ignores."""
    plant_new(repo, {NEW[0]: "7"})
    commit(repo)
    shutil.move(repo / "data", tmp_path / "disk")
    (repo / "data").symlink_to("../disk")
    write(repo, "models/ignored", "data")
    (repo / "current").symlink_to("models/ignored")
    stages = YAML(typ="safe").load(repo / "dvc.yaml")
    stages["stages"]["train"]["deps"].append("current")
    write(repo, "dvc.yaml", stages)
    lock(repo)
    found = build("HEAD", None)
    assert (found.head.stale, found.new.removed, found.notes) == ([], [], [])


def test_half_a_run_is_stale(repo):
    """Weights in dvc.lock that evaluate has not seen, though no data is here to compare."""
    yaml = YAML()
    tree = yaml.load(repo / "dvc.lock")
    tree["stages"]["train"]["outs"][0]["md5"] = "0" * 32
    yaml.dump(tree, repo / "dvc.lock")
    assert stale(repo) == [
        "evaluate: models/weights: not the one that evaluate last ran on",
        "save: models/weights: not the one that save last ran on",
    ]


# Names, histories and whose repository it is


def test_experiments_of_dvc_are_names(repo):
    """As head and as base; an experiment as base is taken as it is, not where it began.

    Once it is on a branch, it is a commit like any other.
    """
    began = git(repo, "rev-parse", "HEAD").strip()
    for name, fixed in (("better", 40), ("best", 43)):
        plant(repo, fixed=fixed)
        commit(repo)
        git(repo, "update-ref", str(ExpRefInfo(began, name)), "HEAD")
        git(repo, "reset", "--quiet", "--hard", began)
    found = build("origin/main", "better")
    assert (found.head.name, found.base.commit, found.evidence.fixed) == ("better", began, 40)
    better = git(repo, "rev-parse", f"refs/exps/{began[:2]}/{began[2:]}/better").strip()
    for name in ("better", better):  # dvc exp show prints both
        found = build(name, "best")
        assert (found.base.name, found.evidence.fixed, found.evidence.broken) == (name, 3, 0)
    assert is_experiment(repo, better)
    git(repo, "merge", "--quiet", "--ff-only", better)
    assert not is_experiment(repo, better)


def test_head_is_gits_after_an_experiment_was_killed(repo):
    """DVC leaves a ref behind, and from then on takes that ref for HEAD."""
    git(repo, "update-ref", EXEC_BASELINE, "HEAD")
    tip = commit(repo)
    assert resolve(repo, "HEAD") == tip


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


def test_where_each_has_merged_the_other(repo):
    """It is compared with the base itself, whose older changes are not the head's doing."""
    git(repo, "checkout", "--quiet", "-b", "change")
    write(repo, "README.md", "of the change")
    change = commit(repo)
    git(repo, "checkout", "--quiet", "main")
    plant(repo, broken=40)
    main = commit(repo)
    git(repo, "merge", "--quiet", "--no-edit", change)
    git(repo, "checkout", "--quiet", "change")
    git(repo, "merge", "--quiet", "--no-edit", main)
    write(repo, "README.md", "of the change, again")
    commit(repo)
    assert build("main", "change").evidence.broken == 0


def test_head_that_the_base_has_is_refused(repo):
    """It would be compared with itself."""
    commit(repo)
    with pytest.raises(InputError, match=r"^HEAD~1: expected a commit that HEAD does not have"):
        build("HEAD", "HEAD~1")
    assert build("HEAD", "HEAD").evidence.p_value == 1


def test_shallow_clone_takes_no_older_base(repo, run, tmp_path, monkeypatch):
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
    monkeypatch.chdir(tmp_path / "shallow")
    assert git(tmp_path / "shallow", "merge-base", "origin/main", "origin/change")  # an older one
    status, _, error = run("--base=origin/main", "--head=origin/change")
    assert status == 2
    advice = error.rpartition("this clone is shallow: ")[2]
    assert run("--base=origin/main")[0] == 0  # whose own tip is the merge base
    git(tmp_path, "clone", "--quiet", "--depth=1", "--branch=change", f"file://{repo}", "one")
    monkeypatch.chdir(tmp_path / "one")
    status, _, error = run("--base=origin/main")
    assert (status, error.rpartition("this clone is shallow: ")[2]) == (2, advice)
    git(tmp_path / "one", *shlex.split(advice)[1:])
    assert run("--base=origin/main")[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no file can have such a name")
def test_file_whose_name_is_no_utf8(repo, run):
    """In the workspace, as old archives have them: it is none of the report's business."""
    (repo / os.fsdecode(b"gr\xfcn")).touch()
    assert run("--base=HEAD")[0] == 0


def test_partial_clone_fetches_what_it_lacks(repo, run, tmp_path, monkeypatch):
    """The files of older commits; also where only some folders are checked out."""
    plant(repo, broken=40)
    commit(repo)
    git(repo, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", f"file://{repo}", "partial")
    git(tmp_path / "partial", "sparse-checkout", "set", "src")
    monkeypatch.chdir(tmp_path / "partial")
    assert run("--base=HEAD~1", "--head=HEAD")[0] == 1


def test_commits_with_long_hashes(tmp_path, run, monkeypatch):
    """The report works with SHA-256, although DVC sees no git repository there."""
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256")
    (long := tmp_path / "long").mkdir()
    monkeypatch.chdir(make_project(long))
    status, text, _ = run("--base=HEAD", "--head=main", "--json")
    assert status == 0
    assert len(Report.model_validate_json(text).head.commit) == 64
    status, _, error = run("--base=nothing")
    assert status == 2
    assert error.startswith("error: nothing: expected a commit or an experiment of DVC: ")


def test_submodules_stay_where_they_are(repo, tmp_path):
    """Also if git's configuration has every checkout take them along."""
    (library := tmp_path / "library").mkdir()
    make_project(library)
    git(repo, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library))
    git(repo, "config", "submodule.recurse", "true")
    build("HEAD", commit(repo))
    assert git(repo, "status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["nothing", "", "--all", "HEAD:dvc.yaml"])
def test_unknown_name_is_refused(repo, run, name):
    """Neither a commit nor an experiment: one line, exit status 2, on either side."""
    for words in ([f"--base={name}"], ["--base=HEAD", f"--head={name}"]):
        status, _, error = run(*words)
        assert status == 2
        (line,) = error.splitlines()
        assert line.startswith("error: ")


def test_hook_in_a_linked_worktree_changes_nothing(repo, tmp_path):
    """Git tells its hooks and aliases which repository is theirs: all of it stays as it was."""
    commit(repo)
    git(repo, "worktree", "add", "--quiet", str(tmp_path / "linked"), "-b", "linked")
    linked = tmp_path / "linked"
    write(linked, "staged", "but not committed")
    git(linked, "add", "staged")
    program = f"'{sys.executable}' -m mnist_pipeline report --json --base HEAD~1"
    (repo / ".git/hooks/pre-commit").write_text(f"#!/bin/sh\nexec {program} > {tmp_path}/found\n")
    (repo / ".git/hooks/pre-commit").chmod(0o755)

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (repo / ".git").rglob("*") if path.is_file()}

    before = contents()
    git(linked, "-c", "core.hooksPath=../repo/.git/hooks", "hook", "run", "pre-commit")
    found = Report.model_validate_json((tmp_path / "found").read_text())
    assert found.base.stale == found.head.stale == found.notes == []
    assert found.changes == found.flips == found.stages == []
    assert contents() == before
    assert git(linked, "status", "--porcelain") == "A  staged\n"


def test_nothing_of_training_is_imported(repo, tmp_path):
    """With pictures, on a machine that has no torch, torchvision, sklearn, pandas or prefect."""
    heavy = ("torch", "torchvision", "sklearn", "pandas", "prefect")
    program = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Missing())
sys.argv = ["mnist_pipeline", "report", "--base=HEAD", "--pictures={tmp_path}/pictures"]
from mnist_pipeline.__main__ import main
main()
"""
    done = python("-c", program, cwd=repo)
    assert (done.returncode, done.stderr) == (0, "")
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == ["confusion.png", "learning_curves.png"]
