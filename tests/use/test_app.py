"""The page's server: whom it answers, and what it refuses."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
from hands import photo
from serving import Server, untrained

from mnist_pipeline.files import InputError
from mnist_pipeline.use import network, versions
from mnist_pipeline.use.app import BODY, Served
from mnist_pipeline.use.spool import SPOOL

SEVEN = photo("white", "black")
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of this file."""
    server = Server()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's folder, in which there is no spool yet."""
    monkeypatch.chdir(tmp_path)


def ask(
    server: Server, path: str, content: Any = None, method: str = "POST", **headers: str
) -> httpx.Response:
    """Send something as a PNG file.

    Each answer, also an error, tells the browser to run nothing from elsewhere and guess no types.
    """
    sent = {"content-type": "image/png"} | headers
    reply = httpx.request(method, server.url + path, content=content, headers=sent, timeout=60)
    assert HEADERS.items() <= reply.headers.items()
    return reply


@pytest.mark.parametrize(
    "own", ["127.0.0.1:{port}", "localhost:{port}", "localhost:1", "127.0.0.1"]
)
def test_its_own_page_is_answered(server: Server, own: str) -> None:
    """By both names of this machine, on whatever port it was forwarded to, 80 too."""
    own = own.format(port=server.port)
    reply = ask(server, "/predict", SEVEN, host=own, origin=f"http://{own}")
    assert reply.status_code == 200
    assert sum(reply.json()["probabilities"]) == pytest.approx(1)
    assert len(reply.json()["pixels"]) == 28 * 28
    assert max(reply.json()["pixels"]) == 255


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"host": "evil.example:{port}"}),
        ("/version", {"host": "127.0.0.1.evil.example"}),
        ("/predict", {"origin": "http://evil.example"}),
        ("/predict", {"origin": "http://127.0.0.1:1"}),
        ("/predict", {"origin": "https://127.0.0.1:{port}"}),
        ("/corrections/3", {"origin": "null"}),
    ],
)
def test_other_sites_are_refused(server: Server, path: str, headers: dict[str, str]) -> None:
    """By their origin, or by a name of theirs that leads to this machine; for every path."""
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    reply = ask(server, path, SEVEN, **sent)
    assert reply.status_code == 403
    assert reply.json() == {"detail": "expected http://127.0.0.1, found another address"}


def test_there_is_nothing_beside_the_page(server: Server) -> None:
    """Not the description of its endpoints that FastAPI would serve."""
    paths = {"/": 200, "/page.js": 200, "/version": 200, "/docs": 404, "/openapi.json": 404}
    found = {path: ask(server, path, method="GET").status_code for path in paths}
    assert found == paths


@pytest.mark.parametrize("path", ["/predict", "/corrections/3"])
def test_other_types_are_refused(server: Server, path: str) -> None:
    """Only a picture's type: a form of another site cannot send one."""
    reply = ask(server, path, SEVEN, **{"content-type": "text/plain"})
    assert reply.status_code == 415
    assert reply.json() == {"detail": "expected a picture, found another type"}


def test_a_long_body_is_refused(server: Server) -> None:
    """Also one that does not announce its length."""
    reply = ask(server, "/predict", (bytes(BODY // 4) for _ in range(5)))
    assert reply.status_code == 413
    assert reply.json() == {"detail": "expected at most 20 MB, found more"}


def kept() -> list[str]:
    """The labels of the corrections that wait."""
    return sorted(path.name[0] for path in SPOOL.iterdir())


def test_corrections(server: Server) -> None:
    """For the same pixels the last label counts, 0 to 9; refused where two wait already."""

    def correct(label: int, content: bytes) -> int:
        return ask(server, f"/corrections/{label}", content).status_code

    one, two, three = (photo("white", "black", width) for width in (12, 22, 32))
    assert [correct(7, one), correct(7, one), correct(3, two)] == [200] * 3
    assert correct(3, three) == correct(7, b"seven") == 400
    assert correct(10, one) == 422
    assert kept() == ["3", "7"]
    assert correct(1, one) == 200  # another label takes no place
    assert kept() == ["1", "3"]


def test_a_spool_that_cannot_be_written(server: Server) -> None:
    """The page hears why."""
    SPOOL.parent.mkdir()
    SPOOL.touch()
    reply = ask(server, "/corrections/7", SEVEN)
    assert reply.status_code == 400
    assert reply.json()["detail"].endswith("cannot be written: File exists")


def test_requests_at_once(server: Server) -> None:
    """Each one gets its own answer; of corrections of the same pixels one is kept."""
    sent = [("/predict", b"seven"), ("/predict", SEVEN)]
    sent += [("/corrections/3", SEVEN), ("/corrections/7", SEVEN)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda words: ask(server, *words), sent * 4))
    assert [reply.status_code for reply in replies] == [400, 200, 200, 200] * 4
    assert len(kept()) == 1


def test_a_problem_is_reported_once(monkeypatch, capsys):
    """Not with every look, as long as it stays the same."""
    served = Served(untrained("v1.0.0"))
    for problem in ("away", "away", "no such stage"):
        monkeypatch.setattr(versions, "read_tags", Mock(side_effect=InputError(problem)))
        served.update("", "prod")
        assert served.problem == problem
    assert capsys.readouterr().err == "warning: away\nwarning: no such stage\n"


def test_a_new_version_does_not_inherit_the_old_ones_problem(monkeypatch):
    """It would be named beside the new version until the next look."""
    served, new = Served(untrained("v1.0.0")), untrained("v1.0.1")
    served.problem = "v1.0.1: its data cannot be had"
    monkeypatch.setattr(versions, "read_tags", lambda _: None)
    monkeypatch.setattr(versions, "find", lambda *_: versions.Version("v1.0.1", new.commit))
    monkeypatch.setattr(versions, "fetch", lambda *_: b"")
    monkeypatch.setattr(network, "load", lambda *_: new)
    served.update("", "prod")
    assert (served.network, served.problem) == (new, "")
