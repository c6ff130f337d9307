"""The page's server: whom it answers, and what it refuses."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
from benchmarks.pictures import encoded
from PIL import Image
from serving import Server, model, untrained

from mnist_pipeline.files import InputError
from mnist_pipeline.use import versions
from mnist_pipeline.use.app import BODY, Served
from mnist_pipeline.use.spool import SPOOL

CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def bar(row: int) -> bytes:
    """A PNG file of MNIST's form."""
    image = np.zeros((28, 28), np.uint8)
    image[row] = 255
    return encoded(Image.fromarray(image), "PNG")


PICTURE = bar(10)


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
    reply = CLIENT.request(method, server.url + path, content=content, headers=sent)
    assert HEADERS.items() <= reply.headers.items()
    return reply


@pytest.mark.parametrize("own", ["localhost:1", "127.0.0.1"])
def test_its_own_page_is_answered(server: Server, own: str) -> None:
    """By both names of this machine, on whatever port it was forwarded to, 80 too."""
    reply = ask(server, "/predict", PICTURE, host=own, origin=f"http://{own}")
    assert reply.status_code == 200
    assert sum(reply.json()["probabilities"]) == pytest.approx(1)
    assert len(reply.json()["pixels"]) == 28 * 28
    assert max(reply.json()["pixels"]) == 255


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"host": "evil.example:{port}"}),
        ("/version", {"host": "127.0.0.1.evil.example"}),
        ("/predict", {"origin": "http://127.0.0.1:1"}),
        ("/predict", {"origin": "https://127.0.0.1:{port}"}),
        ("/corrections/3", {"origin": "null"}),
    ],
)
def test_other_sites_are_refused(server: Server, path: str, headers: dict[str, str]) -> None:
    """By their origin, or by a name of theirs that leads to this machine; for every path."""
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    reply = ask(server, path, PICTURE, **sent)
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
    reply = ask(server, path, PICTURE, **{"content-type": "text/plain"})
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

    one, two, three = map(bar, (5, 10, 15))
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
    reply = ask(server, "/corrections/7", PICTURE)
    assert reply.status_code == 400
    assert reply.json()["detail"].endswith("cannot be written: File exists")


def test_requests_at_once(server: Server) -> None:
    """Each one gets its own answer; of corrections of the same pixels one is kept."""
    sent = [("/predict", b"seven"), ("/predict", PICTURE)]
    sent += [("/corrections/3", PICTURE), ("/corrections/7", PICTURE)]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda words: ask(server, *words), sent * 4))
    assert [reply.status_code for reply in replies] == [400, 200, 200, 200] * 4
    assert len(kept()) == 1


def test_a_version_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The old one stays in service. Why is said once, and is gone with the next version.

    Here its tags were made anew on another commit: the name is the same.
    """
    served, answers = Served(old := untrained("v1.0.0")), [InputError("away")] * 2
    answers += [InputError("no data"), b"no ONNX file", model(2)]
    monkeypatch.setattr(versions, "read_tags", lambda _: None)
    monkeypatch.setattr(versions, "find", lambda *_: versions.Version("v1.0.0", "cd" * 20))
    monkeypatch.setattr(versions, "fetch", Mock(side_effect=answers))
    for problem in ("away", "away", "no data", "v1.0.0: expected an ONNX file that save wrote"):
        served.update("", "prod")
        assert served.network is old
        assert served.problem.startswith(problem)
    assert capsys.readouterr().err.count("warning: ") == 3
    for _ in range(2):  # the second time there is nothing to fetch
        served.update("", "prod")
        assert (served.network.commit, served.problem) == ("cd" * 20, "")


def test_nobody_hears_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its terminal gone, or the disk of its log full, it goes on to follow."""
    served = Served(old := untrained("v1.0.0"))
    monkeypatch.setattr(versions, "read_tags", lambda _: None)
    monkeypatch.setattr(versions, "find", lambda *_: versions.Version("v1.0.1", "cd" * 20))
    monkeypatch.setattr(versions, "fetch", Mock(side_effect=[InputError("away"), model(2)]))
    monkeypatch.setattr(sys, "stderr", Mock(write=Mock(side_effect=OSError)))
    served.update("", "prod")
    assert (served.network, served.problem) == (old, "away")
    served.update("", "prod")
    assert (served.network.version, served.problem) == ("v1.0.1", "")


def test_nobody_is_asked_for_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it follows, git would wait for an answer for ever."""
    monkeypatch.setenv("GIT_TERMINAL_PROMPT", "1")  # so that it is restored
    monkeypatch.setattr(time, "sleep", Mock(side_effect=[None, KeyboardInterrupt]))
    monkeypatch.setattr(Served, "update", lambda *_: seen.append(os.environ[name]))
    seen, name = list[str](), "GIT_TERMINAL_PROMPT"
    with pytest.raises(KeyboardInterrupt):
        Served(untrained("v1.0.0")).follow("", "prod")
    assert seen == ["0"]
