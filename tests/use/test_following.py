"""The version in production: served, followed, and left in service where the next one fails."""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock

import httpx
import psutil
import pytest
from conftest import git
from flows import versions
from service import change, retrained, roll_back, small_registry, wait_until
from serving import model

from mnist_pipeline.files import InputError
from mnist_pipeline.use import network

# The app as the command line starts it, which looks several times a second.
APP = "from mnist_pipeline.use import app; app.EVERY = 0.3; app.main()"


@pytest.fixture
def origin(origin, tmp_path, monkeypatch):
    """The repository with one version in production, a network."""
    monkeypatch.setattr(versions, "fetch", Mock())  # of a rollback, which takes seconds
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    change(origin, source=model(0))
    assert retrained(origin) == "main, mnist-cnn@v1.0.0"
    return origin


@contextmanager
def app(origin, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The app on a free port, following production; its process and its address."""
    options = ["--repository", str(origin), "--stage", "prod", "--port", "0"]
    command = [sys.executable, "-uc", APP, *options]
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("Serving v1.0."), line
            yield process, line.split()[-1]
        finally:
            process.kill()


def served(url: str) -> dict[str, str]:
    """What /version says."""
    found: dict[str, str] = httpx.get(f"{url}/version", timeout=60).json()
    return found


def test_kill_in_mid_fetch(origin, tmp_path):
    """No fetch is left running; the next app serves a whole version, and follows a rollback."""
    slow = tmp_path / "bin/dvc"
    slow.parent.mkdir()
    slow.write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/slow ] && exec sleep 1000\nexec "{shutil.which("dvc")}" "$@"\n'
    )
    slow.chmod(0o755)
    path = f"{slow.parent}:{os.environ['PATH']}"

    def fetching() -> list[psutil.Process]:
        everyone = psutil.process_iter(["name", "environ"])
        ours = [one for one in everyone if (one.info["environ"] or {}).get("PATH") == path]
        return [one for one in ours if one.info["name"] == "sleep"]

    with app(origin, PATH=path) as (process, url):
        first = served(url)
        assert first["version"] == "v1.0.0"
        (tmp_path / "slow").touch()
        change(origin, source=model(1))
        retrained(origin)
        wait_until(fetching, 60, "a fetch")
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not fetching(), 10, "the fetch has ended")
    (tmp_path / "slow").unlink()
    with app(origin, PATH=path) as (_, url):
        then = served(url)
        commit = git(origin, "rev-parse", "main").strip()
        assert (then["version"], then["commit"]) == ("v1.0.1", commit)
        assert then["sha256"] != first["sha256"]
        roll_back(origin)
        wait_until(lambda: served(url) == first, 60, "the app follows")


def test_a_version_by_name_or_stage(tmp_path, monkeypatch):
    """The one in production, or any other; a refusal names those that exist."""
    origin = small_registry(tmp_path)
    monkeypatch.setattr(network.versions, "fetch", lambda *_: model(0))

    def chosen(*words: str) -> str:
        network.add_options(parser := argparse.ArgumentParser())
        options = parser.parse_args(["--repository", str(origin), *words])
        return network.choose(options).version

    for tag in ("mnist-cnn@v1.0.0", "mnist-cnn#prod#1", "mnist-cnn@v1.0.1"):
        git(origin, "tag", "--annotate", "--message=by hand", tag, "main")
    assert [chosen(), chosen("--version", "v1.0.1")] == ["v1.0.0", "v1.0.1"]
    expected = r"dev: expected a version of mnist-cnn, or a stage .*; versions: v1.0.0, v1.0.1"
    with pytest.raises(InputError, match=expected):
        chosen("--stage", "dev")


def test_a_repository_that_never_answers(monkeypatch):
    """It is given up, with a reason."""
    monkeypatch.setattr(network.versions, "PATIENCE", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(InputError, match="git ls-remote: no answer within 1 seconds"),
    ):
        network.versions.read_tags(f"http://127.0.0.1:{silent.getsockname()[1]}/repository")


def test_data_that_never_comes(tmp_path, monkeypatch):
    """It is given up, and what DVC has put into the temporary folder goes."""
    (dvc := tmp_path / "bin/dvc").parent.mkdir()
    dvc.write_text("#!/bin/sh\nmktemp --directory > /dev/null; exec sleep 1000\n")
    dvc.chmod(0o755)
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PATH", f"{dvc.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(network.versions, "PATIENCE", 2)
    with pytest.raises(InputError, match=r"v1.0.0: no data within 2 seconds"):
        network.versions.fetch("", network.versions.Version("v1.0.0", "ab" * 20))
    assert not [*temporary.iterdir()]
