"""Stage download: what a mirror may do wrong, and what a disk may; no wrong byte is passed on."""

import errno
import gzip
import hashlib
import shutil
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
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


FAULTS = {"missing": "status 404", "wrong": "wrong bytes", "cut-off": "connection broke off"}


class Mirror(BaseHTTPRequestHandler):
    """A mirror on this machine; the folder in an address says what it does wrong."""

    asked_for: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked_for.append(self.path)
        _, fault, name = self.path.split("/")
        if fault == "missing" or self.headers["Accept-Encoding"] != "identity":  # not repacked
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(FILES[name])))
        self.end_headers()
        content = WRONG if fault == "wrong" else FILES[name]
        self.wfile.write(content[:9000] if fault in {"cut-off", "stalled"} else content)
        if fault == "stalled":
            time.sleep(2)

    def log_message(self, *_: object) -> None:
        """Say nothing; http.server would write to stderr."""


@pytest.fixture
def mirror() -> Iterator[str]:
    """The address of a running Mirror."""
    Mirror.asked_for.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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
    bad = {f"{mirror}/{fault}/": what for fault, what in FAULTS.items()}
    empty, poor = put(tmp_path / "empty", {}), put(tmp_path / "poor", {NAME: WRONG})
    named = [f"{url} ({what})" for url, what in bad.items()]
    named += [f"{empty} (no such file, or not readable)", f"{poor} (wrong bytes)"]
    sources = [url.replace("//", "//somebody:secret@") for url in bad]
    sources += [str(empty), str(poor)]
    with pytest.raises(InputError) as caught:
        download.fetch(NAME, tmp_path / "raw", sources)
    assert str(caught.value).startswith(f"{NAME}: ")
    assert str(caught.value).endswith(f": {'; '.join(named)}")
    assert Mirror.asked_for == [f"/{fault}/{NAME}" for fault in FAULTS for _ in range(3)]
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
        download.fetch(NAME, tmp_path / "raw", [f"{mirror}/stalled/"], retries=0)
    assert files_in(tmp_path / "raw") == {}


def test_the_stage_replaces_a_wrong_file(mirror, project, monkeypatch):
    """The four files end up in data/MNIST/raw; a good one already there causes no request."""
    put(project / RAW, FILES | {NAME: WRONG})
    monkeypatch.setenv("MNIST_MIRROR", f"{mirror}/good/")
    download.main()
    assert files_in(project / RAW) == FILES
    assert Mirror.asked_for == [f"/good/{NAME}"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (shutil.Error("the file system says no"), "the file system says no"),  # without a number
    ],
)
def test_full_disk(project, monkeypatch, capsys, error, reason):
    """No space left: one line that names the file, and neither a partial nor a temporary one."""
    monkeypatch.setenv("MNIST_MIRROR", str(put(project / "mirror", FILES)))
    full = Mock(side_effect=error)
    monkeypatch.setattr(download.shutil, "copyfile", full)
    says = refusal(download.main, capsys)
    assert says == f"{RAW / NAME}: cannot be written: {reason}"
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
