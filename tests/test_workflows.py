"""The workflows on GitHub: who may write, whose code runs, and what the report is fetched from."""

import ast
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from ruamel.yaml import YAML
from test_pipeline import closure_files

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = {path.name: YAML(typ="safe").load(path) for path in FOLDER.iterdir()}
LIMIT = 1_000_001  # a byte more than mnist_pipeline.comment takes


def steps(name: str, what: str) -> list[dict]:
    """A workflow's steps whose action or command has a text in it."""
    every = [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]
    return [step for step in every if what in step.get("uses", "") + step.get("run", "")]


def test_only_the_comment_may_write():
    """One job has one write permission; none has a secret."""
    allowed = {
        (name, scope)
        for name, workflow in WORKFLOWS.items()
        for permissions in [workflow["permissions"]]
        + [job["permissions"] for job in workflow["jobs"].values()]
        for scope, level in permissions.items()
        if level != "read"
    }
    assert allowed == {("pr-comment.yml", "pull-requests")}
    assert not any("secrets." in (FOLDER / name).read_text() for name in WORKFLOWS)


def test_report_is_of_the_head_with_history():
    """Not of GitHub's merge commit, which has no result of its own."""
    (checkout,) = steps("pr-report.yml", "actions/checkout")
    assert checkout["with"] == {
        "ref": "${{ github.event.pull_request.head.sha }}",
        "fetch-depth": 0,
        "persist-credentials": False,
    }


def test_comment_runs_the_default_branch():
    """After a report on a pull request, with main's code alone, which no checkout replaces."""
    workflow = WORKFLOWS["pr-comment.yml"]
    assert workflow["on"]["workflow_run"]["workflows"] == [WORKFLOWS["pr-report.yml"]["name"]]
    (checkout,) = steps("pr-comment.yml", "actions/checkout")
    assert checkout["with"]["ref"] == "${{ github.event.repository.default_branch }}"
    assert not steps("pr-comment.yml", "git ")


@pytest.mark.parametrize(("program", "commands"), [("report", {"dvc"}), ("comment", set())])
def test_installed_packages_are_those_needed(program, commands):
    """What a workflow installs is what its program imports and calls: no torch, nothing amiss."""
    (install,) = steps(f"pr-{program}.yml", "pip install")
    installed = set(install["run"].split("requirements.lock")[1].split())
    imported = set()
    for path in closure_files(program):
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
    imported -= sys.stdlib_module_names | {"mnist_pipeline"}
    assert {name.split(".")[0] for name in installed} == imported | commands


def test_actions_are_pinned_alike():
    """By commit, with the version beside it, and each action at one version everywhere."""
    text = "".join((FOLDER / name).read_text() for name in WORKFLOWS)
    pinned = re.findall(r"uses: (\S+)@[0-9a-f]{40} # v\d[\d.]*\n", text)
    assert len(set(re.findall(r"uses: (.*)", text))) == len(set(pinned)) > 0


# The step that fetches the report, with a gh that hands out a prepared file


def archive(**files: bytes) -> bytes:
    """A zip of files, compressed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


REPORT = b'{"verdict": "improvement"}'
GH = """#!/bin/sh
case $2 in
*/runs/5/artifacts?name=report) echo 6 ;;
*/artifacts/6/zip) cat "${0%gh}artifact" ;;
esac
"""


@pytest.mark.skipif(
    not shutil.which("unzip"), reason="GitHub's machines have unzip; here it is not"
)
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (archive(**{"report.json": REPORT}), REPORT),
        (archive(**{"../evil": b"x", "report.json": REPORT, "src/evil.py": b"x"}), REPORT),
        (archive(**{"report.json": b"0" * 200_000_000}), b"0" * LIMIT),
        (archive(**{"report.json": REPORT, "filler": os.urandom(1_500_000)}), b""),
        (archive(**{"other.json": REPORT}), b""),
        (b"not a zip", b""),
        (b"", b""),
    ],
    ids=["report", "other files", "bomb", "huge", "no report", "no zip", "nothing"],
)
def test_fetching_takes_the_report_alone(tmp_path, content, expected):
    """report.json and nothing else, however large and whatever beside it."""
    (tmp_path / "artifact").write_bytes(content)
    inner = tmp_path / "temp"
    inner.mkdir()
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    (fetch,) = steps("pr-comment.yml", "gh api")
    variables = {"GITHUB_REPOSITORY": "owner/project", "RUN": "5"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-e", "-c", fetch["run"]]
    subprocess.run(command, cwd=inner, env=variables | {"PATH": path}, check=True)
    assert (inner / "report.json").read_bytes() == expected
    assert sorted(path.name for path in inner.iterdir()) == ["report.json", "report.zip"]
    assert (inner / "report.zip").stat().st_size <= LIMIT
