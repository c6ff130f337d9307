"""The workflows on GitHub: who may write, whose code runs, and the one comment that they keep."""

import io
import json
import os
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import ROOT, python
from ruamel.yaml import YAML

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = {path.name: YAML(typ="safe").load(path) for path in FOLDER.iterdir()}
REPOSITORY, HEAD, OTHER = "repos/owner/project/", "a" * 40, "b" * 40
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


@pytest.mark.skipif(not shutil.which("unzip"), reason="GitHub's machines have unzip")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (archive(**{"../evil": b"x", "report.json": REPORT, "src/evil.py": b"x"}), REPORT),
        (archive(**{"report.json": b"0" * 200_000_000}), b"0" * LIMIT),
        (archive(**{"report.json": REPORT, "filler": os.urandom(1_500_000)}), b""),
    ],
    ids=["other files", "bomb", "huge"],
)
def test_fetching_takes_the_report_alone(tmp_path, content, expected):
    """report.json and nothing else, however large and whatever beside it."""
    (tmp_path / "artifact").write_bytes(content)
    inner = tmp_path / "temp"
    inner.mkdir()
    (tmp_path / "gh").write_text(GH)
    (tmp_path / "gh").chmod(0o755)
    variables = {"GITHUB_REPOSITORY": "owner/project", "RUN": "5"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "-e", "-c", step("pr-comment.yml", "unzip")["run"]]
    subprocess.run(command, cwd=inner, env=variables | {"PATH": path}, check=True)
    assert (inner / "report.json").read_bytes() == expected
    assert sorted(path.name for path in inner.iterdir()) == ["report.json", "report.zip"]
    assert (inner / "report.zip").stat().st_size <= LIMIT


# The step that comments, with the real gh, on an imitation of GitHub


class GitHub(ThreadingHTTPServer):
    """Pull requests and comments of one repository, and what was written."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists: dict[str, list[dict]] = {"pulls": [pull(7, HEAD)], "issues/7/comments": []}
        self.written: list[tuple[str, str, str]] = []


class Handler(BaseHTTPRequestHandler):
    """GitHub's answers. gh uses this server as its proxy, so that paths are whole addresses."""

    server: GitHub

    def do_GET(self) -> None:
        """A list; of pull requests, only those that were asked for."""
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        found = self.server.lists[address.path.removeprefix(f"/{REPOSITORY}")]
        if "state" in query:
            found = [each for each in found if each["base"]["ref"] == query["base"]]
            found = [each for each in found if each["state"] == query["state"]]
        self.answer(found)

    def do_POST(self) -> None:
        """Record a comment."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
        path = urlsplit(self.path).path.removeprefix(f"/{REPOSITORY}")
        self.server.written.append((self.command, path, body))
        self.answer({"body": body})

    do_PATCH = do_POST  # noqa: N815 (http.server's name)

    def answer(self, content: object) -> None:
        """Send JSON, to those who have the token."""
        self.send_response(200 if self.headers["Authorization"] == "token secret" else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pull(number: int, sha: str, base: str = "main", state: str = "open") -> dict:
    """A pull request as GitHub lists it."""
    return {"number": number, "head": {"sha": sha}, "base": {"ref": base}, "state": state}


@pytest.fixture
def github() -> Iterator[GitHub]:
    """GitHub with one open pull request, #7, without comments."""
    if not shutil.which("gh"):
        pytest.skip("GitHub's machines have gh")
    with GitHub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def comment(server: GitHub, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the workflow's step on a report that was rendered."""
    (folder / "report.md").write_text("**Improvement** @`x`\n\n| a |\n")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GH_HOST": "github.localhost",  # to which gh speaks http
        "http_proxy": f"http://127.0.0.1:{server.server_port}",
        "GITHUB_REPOSITORY": "owner/project",
        "GITHUB_SERVER_URL": "https://example.org",
        "GH_TOKEN": "secret",
        "HEAD_SHA": HEAD,
        "MARKER": step("pr-comment.yml", "PATCH")["env"]["MARKER"],
        "RUN": "5",
    }
    command = ["bash", "-e", "-c", step("pr-comment.yml", "PATCH")["run"]]
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


def test_first_report_is_a_new_comment(github, tmp_path):
    """On each open pull request to main that has the commit, and on no other one."""
    others = [pull(9, HEAD, base="release"), pull(9, HEAD, state="closed")]
    github.lists["pulls"] = [pull(6, OTHER), pull(7, HEAD), *others, pull(8, HEAD)]
    github.lists["issues/8/comments"] = []
    done = comment(github, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    text = f"{MARKER}\n**Improvement** @`x`\n\n| a |\n\n"
    text += "[Summary and pictures](https://example.org/owner/project/actions/runs/5)\n"
    assert github.written == [("POST", f"issues/{at}/comments", text) for at in (7, 8)]


@pytest.mark.parametrize(
    ("login", "body", "expected"),
    [
        (BOT, MARKER + "old", ("PATCH", "issues/comments/555")),
        ("mallory", MARKER, ("POST", "issues/7/comments")),
        (BOT, f"Another workflow quotes: {MARKER}", ("POST", "issues/7/comments")),
        (BOT, None, ("POST", "issues/7/comments")),
    ],
)
def test_next_report_takes_the_place_of_ours_alone(github, tmp_path, login, body, expected):
    """Marker and author both must be ours, whatever else was said."""
    others = [{"id": 1, "user": {"login": "mallory"}, "body": "hello"}]
    old = {"id": 555, "user": {"login": login}, "body": body}
    github.lists["issues/7/comments"] = [*others, old]
    assert comment(github, tmp_path).returncode == 0
    assert [each[:2] for each in github.written] == [expected]
