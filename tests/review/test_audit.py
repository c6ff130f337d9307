"""make audit: equal or not, and why."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import dvc_repo, exit_status, git, push, reproduce
from pets import commit, edit, make_project, write

from mnist_pipeline.review import audit

DEVICE = """
import os
assert Path(os.environ["MNIST_MIRROR"]).is_dir()
gpu = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
Path("metrics/environment.json").write_text('{"device": "%s"}' % ("cuda" if gpu else "cpu"))
"""


@pytest.fixture
def repo(tmp_path, monkeypatch) -> Path:
    """The cats and dogs, not run yet, as the working folder."""
    (tmp_path / "repo").mkdir()
    monkeypatch.chdir(tmp_path / "repo")
    return make_project(tmp_path / "repo")


@pytest.fixture
def run(capfd) -> Callable[[], tuple[int, str, str]]:
    """Runs the audit: exit status, output, errors."""

    def program() -> tuple[int, str, str]:
        capfd.readouterr()
        return exit_status(audit.main), *capfd.readouterr()

    return program


def test_other_bytes_are_told(repo, run, tmp_path, monkeypatch):
    """What differs or was not committed, by its path; exit status 1, whatever is uncommitted.

    Also where DVC stages what it writes, as core.autostage of its configuration asks for.
    """
    write(tmp_path, "user/config", "[core]\n    autostage = true\n")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "user"))
    git(repo, "rm", "--quiet", "metrics/history.csv")
    commit(repo)
    write(repo, "README.md", "changed")
    status, text, warnings = run()
    assert status == 1
    assert "warning: uncommitted changes are not part of the audit" in warnings
    assert "\nNot equal to the commit:\n" in text
    assert "\n metrics/errors.csv " in text
    assert "\n metrics/history.csv " in text
    assert "path: models/weights\n" in text
    assert "\n+++ b/metrics/environment.json\n" in text
    assert git(repo, "status", "--porcelain") == "?? README.md\n"
    assert not (repo / ".dvc/cache").exists()


def test_equal_bytes_are_told(repo, run, tmp_path, monkeypatch):
    """A commit of what its stages write, reproduced in a clone: exit status 0.

    Data that dvc add tracks come from the remote. MNIST_MIRROR may be a relative path. A result
    from the CPU is reproduced on the CPU, also on a machine with a GPU, which
    `runtime.device: auto` would take.
    """
    edit(repo, "src/train.py", 'Path("metrics/environment.json").write_text("{}")', DEVICE)
    remote = f"[core]\n    remote = own\n['remote \"own\"']\n    url = {tmp_path}/remote\n"
    write(repo, ".dvc/config", remote)
    write(repo, "raw/all", "pictures")
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("MNIST_MIRROR", "../mirror")
    with dvc_repo(repo) as opened:
        opened.add("raw/all")
    edit(repo, "dvc.yaml", "- src/prepare.py\n", "- src/prepare.py\n    - raw/all\n")
    reproduce(repo)
    push(repo)
    commit(repo)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    status, text, _ = run()
    assert status == 0, text
    assert text.endswith("Equal: dvc.lock and metrics/ have the bytes of the commit.\n")
    assert text.count("Running stage") == 4  # though the cache here has them
