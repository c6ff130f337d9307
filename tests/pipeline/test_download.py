"""Stage download: what a mirror may do wrong, and what a disk may; no wrong byte is passed on."""

import errno
import gzip
import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pooch.core
import pytest
from conftest import refusal

from mnist_pipeline import download, mnist
from mnist_pipeline.files import InputError
from mnist_pipeline.mnist import RAW

PUBLIC = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
]
NAMES = list(mnist.SHA256)
NAME = NAMES[0]

# Stand-ins for MNIST's files, and the table that knows them.
FILES = {name: f"{name} is here. ".encode() * 1500 for name in NAMES}
TABLE = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
WRONG = FILES[NAME][:-1] + b"!"


class Request(BaseHTTPRequestHandler):
    """One request to a mirror; the mirror's answer does the rest."""

    server: "Mirror"

    def do_GET(self) -> None:
        self.name = self.path.rsplit("/", 1)[-1]
        self.server.asked_for.append(self.name)
        self.server.answer(self)

    def send(self, content: bytes, length: int | None = None) -> None:
        """Answer 200 and send the content, under a length that may be a lie."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing; http.server would write to stderr."""


Answer = Callable[[Request], None]


class Mirror(ThreadingHTTPServer):
    """A mirror on this machine that gives one answer to all requests, and remembers them."""

    daemon_threads = False  # server_close waits for them

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.asked_for: list[str] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, args=[0.01]).start()


def good(request: Request) -> None:
    if request.headers["Accept-Encoding"] == "identity":  # the .gz file as it is, not repacked
        request.send(FILES[request.name])


def missing(request: Request) -> None:
    request.send_error(404)


def wrong(request: Request) -> None:
    request.send(WRONG)


def cut_off(request: Request) -> None:
    request.send(FILES[request.name][:9000], len(FILES[request.name]))


def stalled(request: Request) -> None:
    cut_off(request)
    request.server.closing.wait(timeout=10)


FAULTS = {  # and the words that say what was wrong
    missing: "status 404",
    wrong: "wrong bytes",
    cut_off: "connection broke off",
}


@pytest.fixture
def mirror() -> Iterator[Callable[[Answer], Mirror]]:
    """Starts mirrors, which end with the test."""
    started: list[Mirror] = []

    def start_mirror(answer: Answer) -> Mirror:
        started.append(Mirror(answer))
        return started[-1]

    yield start_mirror
    for one in started:
        one.closing.set()
        one.shutdown()
        one.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Small files instead of MNIST's, and pooch's pauses, which take no time."""
    seconds: list[float] = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=seconds.append))
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setattr(download, "SHA256", TABLE)
    monkeypatch.setattr(download, "TIMEOUT", (60.0, 60.0))
    return seconds


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a project that wants MNIST, still without data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("data: {source: mnist}\n")
    return tmp_path


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden and temporary ones too, with its content."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_faulty_mirrors_are_passed_over(mirror, tmp_path, pauses):
    """After three attempts the next mirror is asked; if all fail, one line says which and why.

    A password in an address stays out of that line. Folders are tried once.
    """
    bad = {mirror(fault): what for fault, what in FAULTS.items()}
    empty, poor = put(tmp_path / "empty", {}), put(tmp_path / "poor", {NAME: WRONG})
    named = [f"{one.url} ({what})" for one, what in bad.items()]
    named += [f"{empty} (no such file, or not readable)", f"{poor} (wrong bytes)"]
    sources = [one.url.replace("//", "//somebody:secret@") for one in bad]
    sources += [str(empty), str(poor)]
    with pytest.raises(InputError) as caught:
        download.fetch(NAME, tmp_path / "raw", sources)
    assert str(caught.value).startswith(f"{NAME}: ")
    assert str(caught.value).endswith(f": {'; '.join(named)}")
    assert all(one.asked_for == [NAME] * 3 for one in bad)
    assert pauses == [1, 2] * len(bad)
    assert files_in(tmp_path / "raw") == {}
    right = put(tmp_path / "right", FILES)
    download.fetch(NAME, tmp_path / "raw", [*sources[-2:], str(right)])
    assert files_in(tmp_path / "raw") == {NAME: FILES[NAME]}
    assert files_in(right) == FILES


def test_a_stalled_mirror_is_given_up(mirror, tmp_path, monkeypatch):
    """After a time without a byte; the line says so."""
    monkeypatch.setattr(download, "TIMEOUT", (60.0, 0.5))
    with pytest.raises(InputError, match=r"\(timed out\)$"):
        download.fetch(NAME, tmp_path / "raw", [mirror(stalled).url])
    assert files_in(tmp_path / "raw") == {}


def test_the_stage_replaces_a_wrong_file(mirror, project, monkeypatch):
    """The four files end up in data/MNIST/raw; a good one already there causes no request."""
    put(project / RAW, FILES | {NAME: WRONG})
    server = mirror(good)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    download.main()
    assert files_in(project / RAW) == FILES
    assert server.asked_for == [NAME]


def test_full_disk(project, monkeypatch, capsys):
    """No space left: one line that names the file, and neither a partial nor a temporary one."""
    monkeypatch.setenv("MNIST_MIRROR", str(put(project / "mirror", FILES)))
    full = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(download.shutil, "copyfile", full)
    says = refusal(download.main, capsys)
    assert says == f"{RAW / NAME}: cannot be written: No space left on device"
    assert files_in(project / RAW) == {}


def test_no_network(project, monkeypatch, capsys):
    """One line names the user's mirror, where one is set, and then both public ones."""
    for own, shown in (("", []), ("missing", ["missing (no such file, or not readable)"])):
        monkeypatch.setenv("MNIST_MIRROR", own)
        named = "; ".join([*shown, *(f"{url} (no connection)" for url in PUBLIC)])
        assert refusal(download.main, capsys).endswith(f": {named}")


def test_digits_are_the_same_on_every_machine(digits_files):
    """The embedded digits, unpacked, still have the bytes of the day when this test was written."""
    content = b"".join(gzip.decompress(digits_files[name]) for name in NAMES)
    assert hashlib.sha256(content).hexdigest()[:16] == "51035cea10f9f055"
