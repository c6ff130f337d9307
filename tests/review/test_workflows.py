"""The workflows on GitHub: who may write, whose code runs, and the one comment that they keep."""

import io
import json
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, python
from ruamel.yaml import YAML

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = {path.name: YAML(typ="safe").load(path) for path in FOLDER.iterdir()}
REPOSITORY, HEAD, OTHER = "repos/owner/project", "a" * 40, "b" * 40
MARKER, BOT = "<!-- mnist_pipeline: report -->", "github-actions[bot]"
LIMIT = 1_000_000  # bytes of a report


def step(name: str, what: str) -> dict:
    """The one step of a workflow whose action or command has a text in it."""
    every = [step for job in WORKFLOWS[name]["jobs"].values() for step in job["steps"]]
    (found,) = [step for step in every if what in step.get("uses", "") + step.get("run", "")]
    return found


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


def test_comment_needs_what_its_workflow_installs():
    """Rendering a report imports pydantic and ruamel.yaml, and nothing else that is installed."""
    install = step("pr-comment.yml", "pip install")["run"]
    assert install.split("requirements.lock")[1].split() == ["pydantic", "ruamel.yaml"]
    heavy = "{'torch', 'dvc', 'scipy', 'numpy', 'matplotlib', 'requests', 'pandas'}"
    program = (
        f"import sys, mnist_pipeline.review.markdown; sys.exit(len({heavy} & set(sys.modules)))"
    )
    assert python("-c", program).returncode == 0


# The steps that call gh, with one that hands out prepared files and notes what it should write

GH = """#!/bin/sh
case "$*" in
*/runs/5/artifacts?name=report*) echo 6 ;;
*/artifacts/6/zip) cat "${0%gh}artifact" ;;
*--paginate*) jq --raw-output "$5" "${0%gh}$3" ;;
*) echo "$*" >> "${0%gh}written" ;;
esac
"""


def run_step(gh: Path, folder: Path, what: str, **variables: str) -> None:
    """Run a step of the workflow in a folder, with a gh that lies in another one."""
    (gh / "gh").write_text(GH)
    (gh / "gh").chmod(0o755)
    path = f"{gh}{os.pathsep}{os.environ['PATH']}"
    variables |= {"PATH": path, "GITHUB_REPOSITORY": "owner/project", "RUN": "5"}
    command = ["bash", "-e", "-c", step("pr-comment.yml", what)["run"]]
    subprocess.run(command, cwd=folder, env=variables, check=True)


def archive(**files: bytes) -> bytes:
    """A zip of files, compressed."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return content.getvalue()


REPORT = b'{"verdict": "improvement"}'


@pytest.mark.skipif(not shutil.which("unzip"), reason="GitHub's machines have unzip")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (archive(**{"../evil": b"x", "report.json": REPORT, "src/evil.py": b"x"}), REPORT),
        (archive(**{"report.json": b"0" * 2 * LIMIT}), b"0" * LIMIT),
        (archive(**{"report.json": REPORT, "filler": os.urandom(1_500_000)}), b""),
    ],
    ids=["other files", "bomb", "huge"],
)
def test_fetching_takes_the_report_alone(tmp_path, content, expected):
    """report.json and nothing else, however large and whatever beside it."""
    (tmp_path / "artifact").write_bytes(content)
    inner = tmp_path / "temp"
    inner.mkdir()
    run_step(tmp_path, inner, "unzip")
    assert (inner / "report.json").read_bytes() == expected
    assert sorted(path.name for path in inner.iterdir()) == ["report.json", "report.zip"]
    assert (inner / "report.zip").stat().st_size <= LIMIT


# The step that comments

needs_jq = pytest.mark.skipif(not shutil.which("jq"), reason="GitHub's machines have jq")


def write_list(folder: Path, query: str, rows: list[dict]) -> None:
    """What GitHub answers to a query for a list."""
    (folder / REPOSITORY / query).parent.mkdir(parents=True, exist_ok=True)
    (folder / REPOSITORY / query).write_text(json.dumps(rows))


def comment(folder: Path, pulls: list[dict]) -> list[str]:
    """Run the workflow's step on a report that was rendered; returns the calls that write."""
    write_list(folder, "pulls?state=open&base=main&per_page=100", pulls)
    (folder / "report.md").write_text("**Improvement** @`x`\n\n| a |\n")
    marker = step("pr-comment.yml", "PATCH")["env"]["MARKER"]
    page = {"GITHUB_SERVER_URL": "https://example.org", "HEAD_SHA": HEAD, "MARKER": marker}
    run_step(folder, folder, "PATCH", **page)
    return (folder / "written").read_text().splitlines()


def pull(number: int, sha: str) -> dict:
    """A pull request as GitHub lists it."""
    return {"number": number, "head": {"sha": sha}}


@needs_jq
def test_first_report_is_a_new_comment(tmp_path):
    """On each open pull request to main that has the commit, and on no other one."""
    for number in (7, 8):
        write_list(tmp_path, f"issues/{number}/comments?per_page=100", [])
    written = comment(tmp_path, [pull(6, OTHER), pull(7, HEAD), pull(8, HEAD)])
    new = f"api --silent {REPOSITORY}/issues/{{}}/comments --field body=@comment.md"
    assert written == [new.format(number) for number in (7, 8)]
    text = f"{MARKER}\n**Improvement** @`x`\n\n| a |\n\n"
    text += "[Summary and pictures](https://example.org/owner/project/actions/runs/5)\n"
    assert (tmp_path / "comment.md").read_text() == text


@needs_jq
@pytest.mark.parametrize(
    ("login", "body", "expected"),
    [
        (BOT, MARKER + "old", f"--method PATCH {REPOSITORY}/issues/comments/555"),
        ("mallory", MARKER, f"{REPOSITORY}/issues/7/comments"),
        (BOT, f"Another workflow quotes: {MARKER}", f"{REPOSITORY}/issues/7/comments"),
        (BOT, None, f"{REPOSITORY}/issues/7/comments"),
    ],
)
def test_next_report_takes_the_place_of_ours_alone(tmp_path, login, body, expected):
    """Marker and author both must be ours, whatever else was said."""
    others = [{"id": 1, "user": {"login": "mallory"}, "body": "hello"}]
    old = {"id": 555, "user": {"login": login}, "body": body}
    write_list(tmp_path, "issues/7/comments?per_page=100", [*others, old])
    written = comment(tmp_path, [pull(7, HEAD)])
    assert written == [f"api --silent {expected} --field body=@comment.md"]
