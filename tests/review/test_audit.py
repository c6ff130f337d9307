"""make audit: equal or not, and why."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import dvc, git
from pets import commit, edit, make_project, plant, write

from mnist_pipeline.files import InputError
from mnist_pipeline.review.audit import differences, reproduce, warn_of_changes

FRESH = """
import subprocess
cache = Path(subprocess.check_output(["dvc", "cache", "dir"], text=True).strip())
cache.mkdir(parents=True, exist_ok=True)
(cache / "used").touch(exist_ok=False)
"""


@pytest.fixture
def repo(tmp_path) -> Path:
    """The cats and dogs, not run yet; their training refuses a cache that another one has used."""
    (tmp_path / "repo").mkdir()
    repo = make_project(tmp_path / "repo")
    edit(repo, "src/train.py", "\nparams", f"{FRESH}params")
    commit(repo)
    return repo


def audit(repo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The audit of a checkout."""
    command = [sys.executable, "-m", "mnist_pipeline", "audit", *words]
    return subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)


def test_other_bytes_are_told(repo):
    """What differs, by its path, and exit status 1; uncommitted changes are not looked at."""
    write(repo, "README.md", "changed")
    done = audit(repo)
    assert done.returncode == 1, done.stderr
    assert "warning: uncommitted changes are not part of the audit" in done.stderr
    assert "\nNot equal to the commit:\n" in done.stdout
    assert "\n metrics/errors.csv " in done.stdout
    assert "path: models/weights\n" in done.stdout
    assert git(repo, "status", "--porcelain") == "?? README.md\n"


def test_equal_bytes_are_told(repo):
    """A commit of what its stages write, reproduced in a clone: exit status 0."""
    assert dvc(repo, "repro").returncode == 0
    commit(repo)
    done = audit(repo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Equal: dvc.lock and metrics/ have the bytes of the commit.\n")
    assert done.stdout.count("Running stage 'train'") == 1  # though the cache here has it


@pytest.mark.parametrize("status", [0, 1])
def test_short_audit_compares_two_runs(repo, status):
    """Each in a clone with a cache of its own, where nothing is left to go on from."""
    if status:
        edit(repo, "src/train.py", '["seed"]', '["seed"] + __import__("time").time_ns() % 100')
    commit(repo)
    done = audit(repo, "--short")
    assert done.returncode == status, done.stdout + done.stderr
    assert git(repo, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"device": "cpu", "threads": 1}, '"threads": 1'),
        ({"device": "cpu", "threads": 2}, "The environments are equal: the code, or torch, is not"),
    ],
)
def test_environments_explain_a_difference(repo, environment, words):
    """How they differ, or that they do not."""
    assert differences(repo)[0]
    plant(repo, broken=1)
    write(repo, "metrics/environment.json", environment)
    equal, text = differences(repo)
    assert not equal
    assert words in text


def test_failing_stage_is_one_line(repo):
    """A commit that cannot be reproduced at all is no difference of bytes: exit status 2."""
    write(repo, "src/train.py", "raise SystemExit(3)")
    commit(repo)
    done = audit(repo)
    assert done.returncode == 2
    assert "error: dvc.yaml: expected all stages to succeed, found exit status" in done.stderr


def test_relative_mirror_is_found_from_the_clone(repo, tmp_path, monkeypatch):
    """MNIST_MIRROR may be a folder below the working folder, where the clone is not."""
    (tmp_path / "mirror").mkdir()
    write(repo, "dvc.yaml", {"stages": {"show": {"cmd": "echo $MNIST_MIRROR > shown"}}})
    (repo / "dvc.lock").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MNIST_MIRROR", "mirror")
    reproduce(repo, "repro")
    assert (repo / "shown").read_text() == f"{tmp_path}/mirror\n"


def test_folder_without_git_is_refused(tmp_path, monkeypatch):
    """An unpacked archive cannot be audited: it has no commit."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="not a git repository"):
        warn_of_changes("the audit")
