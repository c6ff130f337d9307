"""make audit: equal or not, and why."""

import subprocess
from pathlib import Path

import pytest
from conftest import dvc, git, python
from pets import commit, edit, make_project, write

DEVICE = """
gpu = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
Path("metrics/environment.json").write_text('{"device": "%s"}' % ("cuda" if gpu else "cpu"))
"""
FRESH = """
import os, subprocess
assert Path(os.environ.get("MNIST_MIRROR", ".")).is_dir()
cache = Path(subprocess.check_output(["dvc", "cache", "dir"], text=True).strip())
cache.mkdir(parents=True, exist_ok=True)
(cache / "used").touch(exist_ok=False)
"""


@pytest.fixture
def repo(tmp_path) -> Path:
    """The cats and dogs, not run yet; their training refuses a cache that another has used."""
    (tmp_path / "repo").mkdir()
    repo = make_project(tmp_path / "repo")
    edit(repo, "src/train.py", "\nparams", f"{FRESH}params")
    commit(repo)
    return repo


def audit(repo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The audit of a checkout."""
    return python("-m", "mnist_pipeline", "audit", *words, cwd=repo)


def test_other_bytes_are_told(repo, tmp_path, monkeypatch):
    """What differs or was not committed, by its path; exit status 1, whatever is uncommitted.

    Also where DVC stages what it writes, as core.autostage of its configuration asks for.
    """
    write(tmp_path, "user/config", "[core]\n    autostage = true\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    git(repo, "rm", "--quiet", "metrics/history.csv")
    commit(repo)
    write(repo, "README.md", "changed")
    done = audit(repo)
    assert done.returncode == 1, done.stderr
    assert "warning: uncommitted changes are not part of the audit" in done.stderr
    assert "\nNot equal to the commit:\n" in done.stdout
    assert "\n metrics/errors.csv " in done.stdout
    assert "\n metrics/history.csv " in done.stdout
    assert "path: models/weights\n" in done.stdout
    assert "\n+++ b/metrics/environment.json\n" in done.stdout
    assert git(repo, "status", "--porcelain") == "?? README.md\n"


def test_equal_bytes_are_told(repo, tmp_path, monkeypatch):
    """A commit of what its stages write, reproduced in a clone: exit status 0.

    Data that dvc add tracks come from the remote. MNIST_MIRROR may be a relative path. A result
    from the CPU is reproduced on the CPU, also on a machine with a GPU, which
    `runtime.device: auto` would take.
    """
    edit(repo, "src/train.py", 'Path("metrics/environment.json").write_text("{}")', DEVICE)
    write(repo, "raw/all", "pictures")
    dvc(repo, "add", "raw/all")
    edit(repo, "dvc.yaml", "- src/prepare.py\n", "- src/prepare.py\n    - raw/all\n")
    remote = f"[core]\n    remote = own\n['remote \"own\"']\n    url = {tmp_path}/remote\n"
    write(repo, ".dvc/config", remote)
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("MNIST_MIRROR", "../mirror")
    assert dvc(repo, "repro", CUDA_VISIBLE_DEVICES="").returncode == 0
    assert dvc(repo, "push").returncode == 0
    commit(repo)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    done = audit(repo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("Equal: dvc.lock and metrics/ have the bytes of the commit.\n")
    assert done.stdout.count("Running stage 'train'") == 1  # though the cache here has it
