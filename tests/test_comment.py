"""The comment on a pull request, against a GitHub that this machine plays."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import refusal

from mnist_pipeline import comment

HEAD, OTHER = "a" * 40, "b" * 40
BOT, STRANGER = {"login": "github-actions[bot]"}, {"login": "mallory"}
REPOSITORY = "/repos/owner/project/"


class GitHub(ThreadingHTTPServer):
    """Pull requests and comments of one repository, listed 100 a page, and what was written."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lists: dict[str, list[dict]] = {"pulls": [pull(7, HEAD)], "issues/7/comments": []}
        self.written: list[tuple[str, str, str]] = []
        self.refuses: dict[str, int] = {}  # method → status
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """GitHub's answers."""

    server: GitHub

    def do_GET(self) -> None:
        """A page of a list, with the address of the next one."""
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        found = self.server.lists[address.path.removeprefix(REPOSITORY)]
        if "pulls" in address.path:
            found = [each for each in found if each["base"]["ref"] == query["base"]]
            found = [each for each in found if each["state"] == query["state"]]
        first, size = int(query.get("page", 1)) - 1, int(query["per_page"])
        rest = "&".join(f"{name}={value}" for name, value in query.items() if name != "page")
        link = f'<{self.server.url}{address.path}?{rest}&page={first + 2}>; rel="next"'
        more = len(found) > (first + 1) * size
        self.answer(found[first * size :][:size], {"Link": link} if more else {})

    def do_POST(self) -> None:
        """Take a comment down."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]
        path = self.path.removeprefix(REPOSITORY)
        self.server.written.append((self.command, path, body))
        self.answer({}, {})

    do_PATCH = do_POST  # noqa: N815 (http.server's name)

    def answer(self, content: object, headers: dict[str, str]) -> None:
        """Send JSON, to those who have the token."""
        allowed = self.headers["Authorization"] == "Bearer token"
        self.send_response(self.server.refuses.get(self.command, 200) if allowed else 401)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def pull(number: int, sha: str, base: str = "main", state: str = "open") -> dict:
    """A pull request as GitHub lists it."""
    return {"number": number, "head": {"sha": sha}, "base": {"ref": base}, "state": state}


def written_by(user: dict | None, body: str | None, number: int = 1) -> dict:
    """A comment as GitHub lists it."""
    return {"id": number, "user": user, "body": body}


@pytest.fixture
def github(monkeypatch, tmp_path) -> Iterator[GitHub]:
    """GitHub with one open pull request, #7; the environment of the workflow; report.json."""
    with GitHub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        variables = {
            "GITHUB_API_URL": server.url,
            "GITHUB_REPOSITORY": "owner/project",
            "GITHUB_TOKEN": "token",
            "GITHUB_SERVER_URL": "https://example.org",
            "HEAD_SHA": HEAD,
            "RUN": "5",
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["comment", "report.json"])
        write(report())
        yield server
        server.shutdown()


def report(**changes: object) -> dict:
    """A report as mnist_pipeline.report --json prints it."""
    side = {"name": "main", "commit": OTHER, "stale": []}
    evidence = {
        "total": 10_000,
        "fixed": 30,
        "broken": 10,
        "p_value": 0.00222,
        "alpha": 0.05,
        "interval": [0.0008, 0.0032],
        "least": 27,
    }
    content = {
        "base": side,
        "head": side | {"name": "HEAD", "commit": HEAD},
        "verdict": "improvement",
        "evidence": evidence,
    }
    return content | changes


def write(content: object) -> None:
    """Make it the file that the workflow was given."""
    Path("report.json").write_text(json.dumps(content))


def test_first_report_is_a_new_comment(github, capsys):
    """On the pull request that has the commit, rendered here."""
    comment.main()
    ((method, path, body),) = github.written
    assert (method, path) == ("POST", "issues/7/comments")
    assert body.startswith(comment.MARKER + "\n**Improvement**: 30 images fixed, 10 broken")
    assert "](https://example.org/owner/project/actions/runs/5)" in body
    assert capsys.readouterr().out == "#7: comment created\n"


def test_next_report_takes_its_place(github, capsys):
    """The bot's own comment is written anew, though it is on the second page."""
    others = [written_by(STRANGER, "hello", number) for number in range(100)]
    github.lists["issues/7/comments"] = [*others, written_by(BOT, comment.MARKER + "old", 555)]
    comment.main()
    ((method, path, _),) = github.written
    assert (method, path) == ("PATCH", "issues/comments/555")
    assert capsys.readouterr().out == "#7: comment updated\n"


@pytest.mark.parametrize(
    "old",
    [
        written_by(STRANGER, comment.MARKER),
        written_by(None, comment.MARKER),
        written_by(BOT, "Another workflow's comment"),
        written_by(BOT, f"Another workflow quotes: {comment.MARKER}"),
        written_by(BOT, None),
    ],
)
def test_nobody_elses_comment_is_touched(github, old):
    """Marker and author both must be ours."""
    github.lists["issues/7/comments"] = [old]
    comment.main()
    assert [(method, path) for method, path, _ in github.written] == [("POST", "issues/7/comments")]


def test_pull_request_is_found_on_a_later_page(github):
    """Among more than a hundred open ones."""
    github.lists["pulls"] = [pull(number, OTHER) for number in range(100, 250)] + [pull(7, HEAD)]
    comment.main()
    assert [path for _, path, _ in github.written] == ["issues/7/comments"]


@pytest.mark.parametrize(
    "other", [pull(9, OTHER), pull(9, HEAD, base="release"), pull(9, HEAD, state="closed")]
)
def test_no_pull_request_gets_no_comment(github, capsys, other):
    """A push came in between, or it is closed: nothing to write, and no failure."""
    github.lists["pulls"] = [other]
    comment.main()
    assert github.written == []
    assert capsys.readouterr().out.startswith("No open pull request to main has aaaa")


def test_file_cannot_choose_the_pull_request(github, capsys):
    """A report on another commit than GitHub says the workflow ran on is refused."""
    write(report(head={"name": "HEAD", "commit": OTHER, "stale": []}))
    message = refusal(comment.main, capsys)
    assert message == f"report.json: expected a report on {HEAD}, found {OTHER}"
    assert github.written == []


HOSTILE = [
    "<script>alert(1)</script>",
    "</code></td></table><img src=x onerror=alert(1)>",
    "@everyone #1 GH-1 owner/project#1",
    "[click](javascript:alert(1)) ![x](//example.com/x.png) https://example.com",
    "`` ` ``` | --> <!-- *bold* # title",
    "one\n\n# two\r\n::set-output name=x::y",
    "\u202eevil\u200b\u0007\x1b[31m",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_strangers_is_inert(github, text):
    """Whatever a name or value says, it is one code span of the comment."""
    changes = [{"name": text, "old": text, "new": text}]
    side = {"name": text, "commit": HEAD, "stale": [text]}
    content = report(
        base=side,
        head=side,
        verdict="not comparable",
        reason="no result",
        detail=text,
        metrics=changes,
        parameters=changes,
        environment=changes,
        stages=[{"name": text, "changed": [text], "after": [text]}],
        notes=[text],
        pictures=[text],
    )
    write(content)
    comment.main()
    ((_, _, body),) = github.written
    shown = body.removeprefix(comment.MARKER).partition("\n[Summary and pictures](")[0]
    assert all(line.count("`") % 2 == 0 for line in shown.splitlines())
    outside = "".join("".join(line.split("`")[::2]) for line in shown.splitlines())
    for sign in ("<", ">", "@", "#1", "::", "](", "://", "alert", "bold", "two", "evil"):
        assert sign not in outside, (sign, outside)
    assert not set("\u202e\u200b\x07\x1b\r") & set(shown)


def deep(levels: int) -> bytes:
    """Lists in lists."""
    return b"[" * levels + b"]" * levels


def changed(old: str, new: str) -> bytes:
    """The report's text with something replaced."""
    text = json.dumps(report())
    assert text.count(old) == 1
    return text.replace(old, new).encode()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "json_invalid at the top"),
        (b"PK\x03\x04", "json_invalid at the top"),
        (b"\xff\xfe{}", "json_invalid at the top"),
        (b"null", "model_type at the top"),
        (b"{}", "missing at base"),
        (deep(100_000), "json_invalid at the top"),
        (b'{"base": ' + deep(400_000) + b"}", "json_invalid at the top"),
        (b"9" * 10_000, "json_invalid at the top"),
        (changed("0.00222", "NaN"), "finite_number at evidence.p_value"),
        (changed("0.00222", "Infinity"), "finite_number at evidence.p_value"),
        (changed("0.00222", "1e999"), "finite_number at evidence.p_value"),
        (changed("0.00222", '"0.002"'), "float_type at evidence.p_value"),
        (changed("10000", "-1"), "greater_than_equal at evidence.total"),
        (changed("10000", "1000001"), "less_than_equal at evidence.total"),
        (changed("10000", "1" + "0" * 5000), "json_invalid at the top"),
        (changed("improvement", "<b>bold</b>"), "literal_error at verdict"),
        (changed('"alpha"', '"::add-mask::x\\n##[y]"'), "missing at evidence.alpha"),
        (changed("HEAD", "H" * 201), "string_too_long at head.name"),
        (b" " * comment.LIMIT + b"{}", "found more"),
    ],
)
def test_malformed_data_is_one_line(github, capsys, content, found):
    """What was expected and what was found, exit status 2, and GitHub is asked nothing."""
    Path("report.json").write_bytes(content)
    message = refusal(comment.main, capsys)
    assert message.startswith("report.json: expected ")
    assert found in message
    assert github.written == []


def test_file_larger_than_memory_is_one_line(github, capsys):
    """A terabyte of nothing is not read to its end."""
    with Path("report.json").open("wb") as file:
        file.truncate(2**40)
    assert "expected at most 1,000,000 bytes" in refusal(comment.main, capsys)


def test_log_does_not_repeat_strangers(github, capsys):
    """An unknown key is named with letters alone, as GitHub obeys commands in a log."""
    write(report(**{"::stop-commands::x ##[add-mask]" + "y" * 500: 1}))
    message = refusal(comment.main, capsys)
    assert message.endswith(f"extra_forbidden at ??stop?commands??x????add?mask?{'y' * 49}")


def test_largest_report_fits_into_a_comment(github):
    """More rows than are shown, of texts as long as may be: below GitHub's 65,536 characters."""
    long = "w" * 200
    change = {"name": long, "old": long, "new": long, "better": True}
    side = {"name": long, "commit": HEAD, "stale": [long] * 40}
    stage = {"name": long, "changed": [long] * 10, "after": [long] * 10}
    flip = {"index": 10**6, "label": 9, "old": 9, "new": 8}
    content = report(
        base=side,
        head=side,
        fixed=[flip] * 1000,
        broken=[flip] * 1000,
        metrics=[change] * 100,
        parameters=[change] * 100,
        environment=[change] * 100,
        stages=[stage] * 20,
        notes=[long] * 10,
        pictures=[long] * 10,
    )
    write(content)
    comment.main()
    ((_, _, body),) = github.written
    assert len(body) <= 65_536


@pytest.mark.parametrize(
    ("method", "status", "path"),
    [("GET", 403, "pulls"), ("GET", 500, "pulls"), ("POST", 422, "issues/7/comments")],
)
def test_refusal_of_github_is_one_line(github, capsys, method, status, path):
    """Status and address; no retry: the workflow can be run again."""
    github.refuses = {method: status}
    message = refusal(comment.main, capsys)
    assert message.startswith(f"{status} ")
    assert f"{REPOSITORY}{path}" in message


def test_github_out_of_reach_is_one_line(github, capsys, monkeypatch):
    """Nothing listens there."""
    monkeypatch.setenv("GITHUB_API_URL", "http://127.0.0.1:9")
    assert "127.0.0.1" in refusal(comment.main, capsys)


@pytest.mark.parametrize("name", ["HEAD_SHA", "GITHUB_TOKEN", "GITHUB_REPOSITORY", "RUN"])
def test_missing_variable_is_one_line(github, capsys, monkeypatch, name):
    """Outside the workflow it says what it needs."""
    monkeypatch.delenv(name)
    expected = f"{name}: expected a value in the environment, found none"
    assert refusal(comment.main, capsys) == expected


def test_missing_file_is_one_line(github, capsys, monkeypatch):
    """The artifact had no report."""
    monkeypatch.setattr("sys.argv", ["comment", "nothing.json"])
    assert refusal(comment.main, capsys) == "nothing.json: No such file or directory"
