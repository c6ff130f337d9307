"""The page's server: whom it answers, and what it refuses."""

import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hands import photo
from serving import MOST, Server

from mnist_pipeline.use.app import BODY
from mnist_pipeline.use.spool import SPOOL

PNG = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """One server for all tests of this file."""
    server = Server()
    yield server
    server.stop()


def ask(server: Server, content: Any, **headers: str) -> httpx.Response:
    """Send something as a PNG file."""
    return httpx.post(f"{server.url}/predict", content=content, headers=PNG | headers, timeout=30)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def huge() -> bytes:
    """A PNG file of 7,072 × 7,072 pixels, if its header is to be believed."""
    header = struct.pack(">IIBBBBB", 7_072, 7_072, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def icon(png: bytes) -> bytes:
    """An ICO file with a PNG file inside, which Pillow decodes as soon as it opens it."""
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(png), 22)
    return struct.pack("<HHH", 0, 1, 1) + entry + png


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_its_own_page_is_answered(server: Server, name: str) -> None:
    """By both names of this machine, with the origin that its own page has."""
    own = f"{name}:{server.port}"
    reply = ask(server, photo("white", "black"), host=own, origin=f"http://{own}")
    assert reply.status_code == 200
    assert sum(reply.json()["probabilities"]) == pytest.approx(1)
    assert len(reply.json()["pixels"]) == 28 * 28
    assert max(reply.json()["pixels"]) == 255


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:{port}"},
        {"host": "127.0.0.1:1"},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:{port}"},
        {"origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/version", "/predict"])
def test_other_sites_are_refused(server: Server, headers: dict[str, str], path: str) -> None:
    """By their own name, or by one of theirs for this machine; for every path."""
    sent = {name: value.format(port=server.port) for name, value in headers.items()}
    method = "POST" if path == "/predict" else "GET"
    reply = httpx.request(method, server.url + path, headers=PNG | sent)
    assert reply.status_code == 403
    own = f"http://127.0.0.1:{server.port}"
    assert reply.json() == {"detail": f"expected {own}, found another address"}
    assert_headers(reply)


def assert_headers(reply: httpx.Response) -> None:
    """What tells the browser to run nothing from elsewhere, and to guess no types."""
    assert {
        "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'none'",
        "cross-origin-resource-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }.items() <= reply.headers.items()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/page.js", 200),
        ("GET", "/version", 200),
        ("GET", "/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/predict", 404),
        ("POST", "/version", 405),
        ("POST", "/predict", 415),
        ("GET", "/corrections/3", 404),
        ("POST", "/corrections/3", 415),
    ],
)
def test_headers_and_paths(server: Server, method: str, path: str, status: int) -> None:
    """Errors too have the headers; there is nothing beside the page and its three endpoints."""
    reply = httpx.request(method, server.url + path)
    assert reply.status_code == status
    assert_headers(reply)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_types_are_refused(server: Server, kind: str) -> None:
    """Only a picture's type: a form of another site cannot send one."""
    reply = ask(server, photo("white", "black"), **{"Content-Type": kind})
    assert reply.status_code == 415
    assert reply.json() == {"detail": "expected a picture, found another type"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_body_is_refused(server: Server, chunked: bool) -> None:
    """Whether its length is told first or not."""
    pieces = (bytes(BODY // 4) for _ in range(5))
    reply = ask(server, pieces if chunked else bytes(BODY + 1))
    assert reply.status_code == 413
    assert reply.json() == {"detail": "expected at most 20 MB, found more"}
    assert_headers(reply)


@pytest.mark.parametrize("content", [huge(), icon(huge())], ids=["PNG", "PNG inside an ICO"])
def test_a_huge_picture_is_refused(server: Server, content: bytes) -> None:
    """The reason is one phrase, with the headers of any answer; nothing is decoded."""
    reply = ask(server, content)
    assert reply.status_code == 400
    assert reply.json() == {"detail": "expected at most 50,000,000 pixels, found more"}
    assert_headers(reply)


def test_corrections(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept with a label from 0 to 9, twice the same once; refused when too many wait."""
    monkeypatch.chdir(tmp_path)

    def correct(label: object, content: bytes, **headers: str) -> int:
        url = f"{server.url}/corrections/{label}"
        return httpx.post(url, content=content, headers=PNG | headers).status_code

    one, two, three = (photo("white", "black", width) for width in (12, 22, 32))
    assert [correct(7, one), correct(7, one), correct(3, two)] == [200] * 3
    assert len(list(SPOOL.iterdir())) == MOST == 2
    assert correct(3, three) == 400
    assert correct(10, one) == correct("x", one) == 422
    assert correct(7, b"seven") == 400
    assert correct(7, one, origin="http://evil.example") == 403
    assert correct(1, one) == 200  # another label takes no place
    assert len(list(SPOOL.iterdir())) == 2


def test_a_spool_that_cannot_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page hears why."""
    monkeypatch.chdir(tmp_path)
    SPOOL.parent.mkdir()
    SPOOL.touch()
    reply = httpx.post(f"{server.url}/corrections/7", content=photo("white", "black"), headers=PNG)
    assert reply.status_code == 400
    assert "File exists" in reply.json()["detail"]
    assert_headers(reply)


def test_corrections_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same pixels: each is answered, and one of them is kept."""
    monkeypatch.chdir(tmp_path)

    def correct(label: int) -> int:
        url = f"{server.url}/corrections/{label}"
        picture = photo("white", "black")
        return httpx.post(url, content=picture, headers=PNG, timeout=60).status_code

    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(correct, [3, 7] * 10)) == [200] * 20
    assert len(list(SPOOL.iterdir())) == 1


def test_requests_at_once(server: Server) -> None:
    """Each one gets its own answer."""
    pictures = [photo("white", "black"), photo("black", "white"), b"seven"] * 3
    with ThreadPoolExecutor(len(pictures)) as pool:
        replies = list(pool.map(lambda content: ask(server, content), pictures))
    assert [reply.status_code for reply in replies] == [200, 200, 400] * 3
