"""Stage download: what a mirror may do wrong, and what a disk may; no wrong byte is passed on."""

import errno
import gzip
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch.core
import pytest

from mnist_pipeline import download, mnist_files
from mnist_pipeline.mnist_files import RAW
from mnist_pipeline.stage import InputError

PUBLIC = [
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
]
MD5 = {  # as published with MNIST
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
NAMES = list(MD5)
NAME = NAMES[0]
DIGITS_SHA256 = [  # in this order, unpacked, for data.source=digits
    "5763b4a4c109aab9e844268c4a3d2ec8ee7ddba17512cdae4232435d4668b23e",
    "d1dd98b2b42041d998c5838b99fce77d3151615d464a99bcdd1930a2e9efc360",
    "d5e0f6c045d1cb62438e20d29901b4bc6171b57c95a96b0e4186fae7257022ac",
    "0001787526e86554f99b0c74856f5e466a7cb5d1b270a80ee5176aadc3a08157",
]

# Stand-ins for MNIST's files, and the table that knows them.
FILES = {name: f"{name} is here. ".encode() * 1500 for name in NAMES}
TABLE = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
POISON = FILES[NAME][:-1] + b"!"


# A mirror on this machine, and its faults.


class Request(BaseHTTPRequestHandler):
    """One request to a mirror; the mirror's answer does the rest."""

    server: "Mirror"

    def do_GET(self) -> None:
        self.server.requests.append(self)
        self.server.answer(self)

    @property
    def name(self) -> str:
        """The file that is asked for."""
        return self.path.rsplit("/", 1)[-1]

    def send(self, content: bytes, length: int | None = None, kind: str = "x-gzip") -> None:
        """Answer 200 and send the content, under a length that may be a lie."""
        self.send_response(200)
        self.send_header("Content-Type", f"application/{kind}")
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def send_half(self) -> None:
        content = FILES[self.name]
        self.send(content[: len(content) // 2], len(content))

    def log_message(self, *_: object) -> None:
        """Say nothing; http.server would write to stderr."""


Answer = Callable[[Request], None]


class Mirror(ThreadingHTTPServer):
    """A mirror that gives one answer to all requests, and remembers them."""

    daemon_threads = False  # server_close waits for them

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.answer = answer
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=[0.01])
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    @property
    def asked_for(self) -> list[str]:
        return [request.name for request in self.requests]

    def end(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


def good(request: Request) -> None:
    request.send(FILES[request.name])


def missing(request: Request) -> None:
    request.send_error(404)


def login_page(request: Request) -> None:
    request.send(b"<!DOCTYPE html><title>Please log in</title>", kind="xhtml+xml")


def cut_off(request: Request) -> None:
    request.send_half()


def short(request: Request) -> None:
    request.send(FILES[request.name][:-1])


def empty(request: Request) -> None:
    request.send(b"")


def one_flipped_bit(request: Request) -> None:
    content = bytearray(FILES[request.name])
    content[len(content) // 2] ^= 1
    request.send(bytes(content))


def silent(request: Request) -> None:
    if not request.server.closing.wait(timeout=10):
        good(request)  # for a client without a timeout of its own


def stalled(request: Request) -> None:
    request.send_half()
    if not request.server.closing.wait(timeout=10):
        request.wfile.write(FILES[request.name][len(FILES[request.name]) // 2 :])


def reset(request: Request) -> None:
    linger = struct.pack("ii", 1, 0)  # close() then sends RST
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    os.close(request.connection.detach())


def reset_in_mid_body(request: Request) -> None:
    request.send_half()
    reset(request)


def in_turn(*answers: Answer) -> Answer:
    """One answer after the other, a request each."""
    remaining = iter(answers)

    def answer(request: Request) -> None:
        next(remaining)(request)

    return answer


FAULTS = {  # and the word that tells the reader what was wrong
    missing: "status 404",
    login_page: "wrong bytes",
    cut_off: "connection broke off",
    short: "wrong bytes",
    empty: "wrong bytes",
    one_flipped_bit: "wrong bytes",
    silent: "timed out",
    stalled: "timed out",
    reset: "no connection",
    reset_in_mid_body: "connection broke off",
}
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


@pytest.fixture
def mirror() -> Iterator[Callable[[Answer], Mirror]]:
    """Starts mirrors, which end with the test."""
    started: list[Mirror] = []

    def start(answer: Answer) -> Mirror:
        started.append(Mirror(answer))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own small files for MNIST's, no mirror of the user's, and little patience."""
    monkeypatch.delenv("MNIST_MIRROR", raising=False)
    monkeypatch.setattr(download, "SHA256", TABLE)
    monkeypatch.setattr(download, "TIMEOUT", (5.0, 0.5))


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds pooch would have waited between attempts; here it does not wait."""
    seconds: list[float] = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=seconds.append))
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
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# fetch: one file.


@every_fault
def test_a_faulty_mirror_leaves_nothing_behind(fault: Answer, mirror: Callable, tmp_path: Path):
    """No fault puts a file into the folder; one line names the file, the mirror and the fault."""
    bad = mirror(fault)
    with pytest.raises(InputError) as caught:
        download.fetch(NAME, tmp_path, [bad.url], retries=0)
    assert files_in(tmp_path) == {}
    message = str(caught.value)
    assert message.startswith(f"{NAME}: ")
    assert FAULTS[fault] in message.partition(f"{bad.url} (")[2]
    assert "\n" not in message


@every_fault
def test_the_next_mirror_makes_good(fault: Answer, mirror: Callable, tmp_path: Path):
    """Whatever the first mirror does, the second one's file arrives, and nothing else."""
    second = mirror(good)
    download.fetch(NAME, tmp_path, [mirror(fault).url, second.url], retries=0)
    assert files_in(tmp_path) == {NAME: FILES[NAME]}
    assert second.asked_for == [NAME]


def test_all_mirrors_are_named_in_the_error(mirror: Callable, tmp_path: Path):
    """The one line lists every mirror, in the order of the attempts, each with its own fault."""
    first, second = mirror(missing), mirror(short)
    with pytest.raises(InputError) as caught:
        download.fetch(NAME, tmp_path, [first.url, second.url])
    assert f"{first.url} (status 404); {second.url} (wrong bytes)" in str(caught.value)


def test_three_attempts_with_pauses_of_one_and_two_seconds(
    mirror: Callable, tmp_path: Path, pauses: list[float]
):
    """A mirror is asked three times, after 1 s and then 2 s, and no more."""
    bad = mirror(one_flipped_bit)
    with pytest.raises(InputError):
        download.fetch(NAME, tmp_path, [bad.url])
    assert bad.asked_for == [NAME] * 3
    assert pauses == [1, 2]
    assert files_in(tmp_path) == {}


def test_a_passing_fault_is_overcome(mirror: Callable, tmp_path: Path, pauses: list[float]):
    """Two failed attempts at a mirror do not spoil the third."""
    flaky = mirror(in_turn(reset, one_flipped_bit, good))
    download.fetch(NAME, tmp_path, [flaky.url])
    assert files_in(tmp_path) == {NAME: FILES[NAME]}
    assert pauses == [1, 2]


def test_a_good_first_mirror_is_asked_once(mirror: Callable, tmp_path: Path, pauses: list[float]):
    """Without a fault there is one request, no pause, and no word to the second mirror."""
    first, second = mirror(good), mirror(good)
    download.fetch(NAME, tmp_path, [first.url, second.url])
    assert (first.asked_for, second.asked_for, pauses) == ([NAME], [], [])


def test_the_server_is_asked_not_to_repack(mirror: Callable, tmp_path: Path):
    """The request wants the .gz file as it is, not its content in another encoding."""
    server = mirror(good)
    download.fetch(NAME, tmp_path, [server.url])
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_poison_on_disk_is_replaced(mirror: Callable, tmp_path: Path):
    """A wrong file under the right name is not believed: the true one takes its place."""
    put(tmp_path, {NAME: POISON})
    download.fetch(NAME, tmp_path, [mirror(good).url])
    assert files_in(tmp_path) == {NAME: FILES[NAME]}


def test_poison_on_disk_is_an_error_where_no_mirror_helps(mirror: Callable, tmp_path: Path):
    """A wrong file under the right name stays as it was, but the download fails."""
    put(tmp_path, {NAME: POISON})
    with pytest.raises(InputError, match=NAME):
        download.fetch(NAME, tmp_path, [mirror(one_flipped_bit).url])
    assert files_in(tmp_path) == {NAME: POISON}


def test_a_folder_is_a_mirror(tmp_path: Path):
    """A folder with the file serves as well as a server."""
    source = put(tmp_path / "mirror", FILES)
    download.fetch(NAME, tmp_path / "raw", [str(source)])
    assert files_in(tmp_path / "raw") == {NAME: FILES[NAME]}
    assert files_in(source) == FILES


@pytest.mark.parametrize(
    "files", [None, {}, {NAME: POISON}, "a file"], ids=["none", "empty", "poisoned", "file"]
)
def test_a_bad_folder_falls_to_the_next_mirror(
    files: dict[str, bytes] | str | None, mirror: Callable, tmp_path: Path, pauses: list[float]
):
    """No folder, no file in it, or a wrong one: on to the next mirror, without a pause."""
    source = tmp_path / "mirror"
    if isinstance(files, str):
        source.write_text(files)
    elif files is not None:
        put(source, files)
    download.fetch(NAME, tmp_path / "raw", [str(source), mirror(good).url])
    assert files_in(tmp_path / "raw") == {NAME: FILES[NAME]}
    assert pauses == []


def test_a_proxy_from_the_environment_is_used(
    mirror: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With http_proxy set, the request for another host goes to the proxy."""
    proxy = mirror(good)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    download.fetch(NAME, tmp_path, ["http://mnist.invalid/"])
    assert [request.path for request in proxy.requests] == [f"http://mnist.invalid/{NAME}"]
    assert files_in(tmp_path) == {NAME: FILES[NAME]}


# main: all four files.


def test_mirrors_own_first(monkeypatch: pytest.MonkeyPatch):
    """MNIST_MIRROR comes before the two public mirrors; unset or empty, it is none."""
    assert download.mirrors() == PUBLIC
    monkeypatch.setenv("MNIST_MIRROR", "")
    assert download.mirrors() == PUBLIC
    monkeypatch.setenv("MNIST_MIRROR", "/srv/mnist")
    assert download.mirrors() == ["/srv/mnist", *PUBLIC]


def test_main_fetches_the_four_files(
    mirror: Callable, project: Path, monkeypatch: pytest.MonkeyPatch
):
    """MNIST's four files come from MNIST_MIRROR into data/MNIST/raw, a request each."""
    server = mirror(good)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    download.main()
    assert files_in(project / "data/MNIST/raw") == FILES
    assert sorted(server.asked_for) == sorted(NAMES)


def test_good_files_cause_no_request(
    mirror: Callable, project: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where all files are there and true, nobody is asked for anything."""
    put(project / RAW, FILES)
    server = mirror(good)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    download.main()
    assert server.asked_for == []
    assert files_in(project / RAW) == FILES


def test_only_the_poisoned_file_is_fetched(
    mirror: Callable, project: Path, monkeypatch: pytest.MonkeyPatch
):
    """One wrong file among the four costs one request."""
    put(project / RAW, FILES | {NAME: POISON})
    server = mirror(good)
    monkeypatch.setenv("MNIST_MIRROR", server.url)
    download.main()
    assert server.asked_for == [NAME]
    assert files_in(project / RAW) == FILES


# The stage as a process of its own.

# The stage as `python -m` starts it, with our stand-ins for MNIST's files, and without the
# digits' scikit-learn, which it does not need here and which costs 2 s.
WITH_STAND_INS = """
import json, resource, runpy, sys, types
sys.modules["mnist_pipeline.digits"] = types.ModuleType("digits")
from mnist_pipeline import mnist_files
mnist_files.SHA256 = json.loads(sys.argv[1])
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
runpy.run_module("mnist_pipeline.download", run_name="__main__")
"""
STAGE = ["-m", "mnist_pipeline.download"]
STAGE_WITH_STAND_INS = ["-c", WITH_STAND_INS, json.dumps(TABLE)]


def start(folder: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start Python in a folder, with this checkout's code."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and stderr of a process, which gets a minute to end."""
    with process:
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, stderr


def refused(process: subprocess.Popen[str]) -> str:
    """The one line on stderr with which a stage refuses its input; the exit status is 2."""
    status, stderr = ended(process)
    assert status == 2, stderr
    assert stderr.startswith("error: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    return stderr


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_killed_in_mid_download(mirror: Callable, project: Path):
    """After SIGKILL no half file bears MNIST's name (a temporary one may); a rerun completes."""
    dripping = mirror(in_turn(good, stalled))
    with start(project, STAGE_WITH_STAND_INS, MNIST_MIRROR=dripping.url) as process:
        try:
            wait_for(lambda: dripping.asked_for == NAMES[:2])  # so that the first file is done
            wait_for(lambda: sum(map(len, files_in(project / RAW).values())) > len(FILES[NAMES[0]]))
        finally:
            process.kill()
    left = files_in(project / RAW)
    assert {name: left[name] for name in NAMES if name in left} == {NAMES[0]: FILES[NAMES[0]]}
    healthy = mirror(good)
    assert ended(start(project, STAGE_WITH_STAND_INS, MNIST_MIRROR=healthy.url)) == (0, "")
    assert files_in(project / RAW).items() >= FILES.items()
    assert healthy.asked_for == NAMES[1:]


def test_four_at_once(mirror: Callable, project: Path):
    """Four processes that download into the same folder at the same time do not clash."""
    all_there = threading.Barrier(4)

    def good_when_all_are_there(request: Request) -> None:
        if request.name == NAMES[0]:
            all_there.wait(timeout=30)
        good(request)

    url = mirror(good_when_all_are_there).url
    processes = [start(project, STAGE_WITH_STAND_INS, MNIST_MIRROR=url) for _ in range(4)]
    assert [ended(process) for process in processes] == [(0, "")] * 4
    assert files_in(project / RAW) == FILES


def test_full_disk(mirror: Callable, project: Path):
    """No space left: one line, exit status 2, and neither a partial nor a temporary file."""
    url = mirror(good).url
    limit = str(len(FILES[NAMES[0]]) - 1)  # bytes in a file, in place of a disk's
    process = start(project, [*STAGE_WITH_STAND_INS, limit], MNIST_MIRROR=url)
    what = os.strerror(errno.EFBIG)
    assert refused(process) == f"error: {RAW / NAME}: cannot be written: {what}\n"
    assert files_in(project / RAW) == {}


def test_unwritable_folder(mirror: Callable, project: Path):
    """Where data/MNIST/raw cannot be made: one line that names it, exit status 2, no request."""
    put(project / "data", {"MNIST": b"a file, no folder"})  # stops root as well
    server = mirror(good)
    process = start(project, STAGE_WITH_STAND_INS, MNIST_MIRROR=server.url)
    assert "data/MNIST" in refused(process)
    assert files_in(project / "data") == {"MNIST": b"a file, no folder"}
    assert server.asked_for == []


def test_unreachable_mirrors(project: Path):
    """Without network: one line that names the file and both mirrors, and exit status 2."""
    line = refused(start(project, STAGE))
    assert NAME in line
    assert all(f"{url} (no connection)" in line for url in PUBLIC)
    assert files_in(project / RAW) == {}


def test_unknown_source(project: Path):
    """A wrong data.source is refused with the file, the key, what is expected and what is found."""
    (project / "params.yaml").write_text("data: {source: foo}\n")
    line = refused(start(project, STAGE_WITH_STAND_INS))
    assert "params.yaml: data.source: expected 'mnist' or 'digits', found 'foo'" in line
    assert not (project / "data").exists()


def test_imports_no_torch(project: Path):
    """The stage starts without torch, which would cost more time than the download."""
    code = "import sys, mnist_pipeline.download; sys.exit('torch' in sys.modules)"
    assert ended(start(project, ["-c", code])) == (0, "")


# The embedded digits.


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """What two runs of the stage write for data.source=digits."""
    folders = [tmp_path_factory.mktemp("digits") for _ in range(2)]
    for folder in folders:
        (folder / "params.yaml").write_text("data: {source: digits}\n")
    processes = [start(folder, STAGE) for folder in folders]
    assert [ended(process) for process in processes] == [(0, "")] * 2
    return [files_in(folder / RAW) for folder in folders]


def idx(packed: bytes) -> np.ndarray:
    """The array in an IDX file of bytes."""
    content = gzip.decompress(packed)
    assert content[:3] == b"\0\0\x08"
    rank = content[3]
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def test_digits_are_the_same_bytes_on_every_run(digits: list[dict[str, bytes]]):
    """Two runs write the same four files, and nothing else."""
    assert sorted(digits[0]) == sorted(NAMES)
    assert digits[0] == digits[1]


def test_digits_are_the_same_on_every_machine(digits: list[dict[str, bytes]]):
    """The four files, unpacked, are those that were written when this test was."""
    unpacked = [gzip.decompress(digits[0][name]) for name in NAMES]
    found = [hashlib.sha256(content).hexdigest() for content in unpacked]
    assert found == DIGITS_SHA256


def test_digits_shapes(digits: list[dict[str, bytes]]):
    """1,437 training and 360 test digits in MNIST's format, values up to 255."""
    arrays = [idx(digits[0][name]) for name in NAMES]
    assert [array.shape for array in arrays] == [(1437, 28, 28), (1437,), (360, 28, 28), (360,)]
    assert [array.max() for array in arrays] == [255, 9, 255, 9]


def test_digits_are_stratified(digits: list[dict[str, bytes]]):
    """Each digit has the same share of training and test, within a percentage point."""
    train, test = (np.bincount(idx(digits[0][name]), minlength=10) for name in NAMES[1::2])
    assert (train > 0).sum() == 10
    assert np.abs(train / train.sum() - test / test.sum()).max() < 0.01


def test_digits_lie_in_the_middle(digits: list[dict[str, bytes]]):
    """As in MNIST, 4 pixels on each side are empty, and the 20 × 20 within are used."""
    for name in NAMES[::2]:
        images = idx(digits[0][name])
        inside = np.zeros((28, 28), bool)
        inside[4:24, 4:24] = True
        used = images.any(axis=0)
        assert not used[~inside].any()
        assert used[4:24].any(axis=1).all()
        assert used[:, 4:24].any(axis=0).all()


# The real MNIST, where it is at hand.

REAL = os.environ.get("MNIST_MIRROR", "")


@pytest.mark.skipif(not REAL, reason="MNIST_MIRROR names no folder or mirror with the real files")
def test_real_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """From MNIST_MIRROR come the files that were published, by their MD5."""
    monkeypatch.setattr(download, "SHA256", mnist_files.SHA256)
    for name in NAMES:
        download.fetch(name, tmp_path, [REAL])
    found = {
        name: hashlib.md5(content, usedforsecurity=False).hexdigest()
        for name, content in files_in(tmp_path).items()
    }
    assert found == MD5
