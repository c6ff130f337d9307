"""make audit: equal or not, output by output."""

import json
import os
import subprocess
import sys

import pytest
from conftest import copy_of_project, git, refusal, set_params
from ruamel.yaml import YAML

from mnist_pipeline import audit


def test_compare_names_each_difference():
    """Equal, unequal, missing on either side."""
    rows = audit.compare({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"})
    assert rows == [
        ("a", "1", "1", "yes"),
        ("b", "2", "9", "NO"),
        ("c", "3", "missing", "NO"),
        ("d", "missing", "4", "NO"),
    ]


def test_table_lines_up():
    """Columns as wide as their widest cell."""
    text = audit.table(("output", "equal"), [("a/long/name", "yes"), ("b", "NO")])
    assert text == "output       equal\na/long/name  yes\nb            NO"


def test_environments_shows_only_what_differs(tmp_path):
    """The threads, not the platform; and where nothing differs, that."""
    for name, threads in (("one", 1), ("two", 2), ("same", 2)):
        path = tmp_path / name / audit.ENVIRONMENT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"threads": threads, "platform": "Linux"}))
    text = audit.environments(tmp_path / "one", tmp_path / "two")
    assert text.splitlines()[1].split() == ["threads", "1", "2", "NO"]
    assert len(text.splitlines()) == 2
    assert "the environments are" in audit.environments(tmp_path / "two", tmp_path / "same")


def test_audit_tells_equal_from_unequal(tmp_path, digits_files):
    """Of a lock with MNIST's hashes, reproduced on the digits, nothing is equal: status 1."""
    copy_of_project(tmp_path)
    path, yaml = tmp_path / "params.yaml", YAML()
    tree = yaml.load(path)
    tree["data"]["source"], tree["train"]["dry_run"] = "digits", True
    yaml.dump(tree, path)
    git(tmp_path, "commit", "--quiet", "--all", "--message=digits")
    (tmp_path / "README.md").write_text("changed")
    done = subprocess.run(
        [sys.executable, "-m", "mnist_pipeline.audit"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "warning: uncommitted changes are not part of the audit" in done.stderr
    lines = done.stdout[done.stdout.index("output ") :].splitlines()
    verdicts = {line.split()[0]: line.split()[-1] for line in lines[1:] if line.startswith("m")}
    assert verdicts["models/weights.safetensors"] == verdicts["metrics/metrics.json"] == "NO"
    assert git(tmp_path, "status", "--porcelain") == " M README.md\n"


def test_folder_without_git_is_one_line(tmp_path, monkeypatch, capsys):
    """An unpacked archive cannot be audited: it has no commit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "expected a git checkout" in refusal(audit.warn_of_changes, capsys)


def test_failing_stage_is_one_line(tmp_path, monkeypatch, capsys):
    """A commit that cannot be reproduced at all: one line, status 2, after what dvc said."""
    copy_of_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    set_params(data={"source": "nowhere"})
    git(tmp_path, "commit", "--quiet", "--all", "--message=broken")
    with pytest.raises(audit.InputError, match="expected all stages to succeed, found exit status"):
        audit.reproduce(audit.clone(tmp_path / "clone"))
