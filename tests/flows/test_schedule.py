"""make schedule where it cannot work, and what it installs."""

import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT, python, refusal
from flows import schedule, server
from flows.server import ENDS
from prefect.settings import PREFECT_API_URL, temporary_settings
from service import FINAL

from mnist_pipeline.files import InputError, parse_yaml

NOWHERE = "http://127.0.0.1:9/api"


def test_port_must_be_a_free_one():
    """Our deployments would go to the server that has taken the port."""
    with socket.create_server((schedule.HOST, 0)) as taken:
        for value in (str(taken.getsockname()[1]), "http", "70000"):
            with pytest.raises(InputError, match=rf"API_PORT: expected a free port, .* '{value}'"):
                schedule.free_port(value)


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_server_is_reached_past_the_users_proxy(monkeypatch, name):
    """Connections to this machine, and to hosts that the user excepts, go through no proxy."""
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv(name, "example.org")
    assert schedule.settings(4200)["no_proxy"] == f"{schedule.HOST},example.org"


def test_nobody_is_asked(monkeypatch, capfd):
    """At a terminal, Prefect's server would ask for a profile first, and wait for the answer."""
    monkeypatch.setattr(schedule, "leashed", lambda *words: ["echo", *words])
    with schedule.child("server", "start") as server:
        server.wait()
    assert capfd.readouterr().out == "prefect --no-prompt server start\n"


def test_server_that_ends_is_not_waited_for():
    """Its own messages say why."""
    with subprocess.Popen(["false"]) as server:
        server.wait()
    with pytest.raises(InputError, match="Prefect's server has ended"):
        schedule.wait_for_health(server)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("", "a server's address, found none"), (NOWHERE, f"a server at {NOWHERE}: ")],
)
def test_where_no_server_answers_nothing_is_installed(capsys, url, expected):
    """One line, as for any bad input; also if no server is named, when Prefect would start one."""
    with temporary_settings({PREFECT_API_URL: url}):
        said = refusal(server.main, capsys)
    assert said.startswith(f"PREFECT_API_URL: expected {expected}")


def test_every_end_of_a_run_disarms_the_automations():
    """Events are named after states: a run's own name for its end is among the expected ones."""
    assert {"Refused", *(name.capitalize() for name in FINAL)} <= set(ENDS)


def test_every_deployed_flow_is_watched():
    """Otherwise a run that is killed with its worker would be Running for ever."""
    deployments = parse_yaml((ROOT / "prefect.yaml").read_text(), "prefect.yaml")["deployments"]
    assert all(schedule.TAG in each["tags"] for each in deployments)


def test_interrupt_while_the_flows_load():
    """Ctrl-C in the first seconds: no traceback."""
    words = [sys.executable, "-X", "importtime", "-m", "flows.collect", "--help"]
    with subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True) as tool:
        next(text for text in tool.stderr if "prefect" in text)
        tool.send_signal(signal.SIGINT)
        rest = tool.stderr.read()
    assert tool.returncode == -signal.SIGINT
    assert "Traceback" not in rest


@pytest.mark.parametrize(("module", "word"), [("collect", "--help"), ("schedule", "help")])
def test_who_asks_for_help_starts_nothing(module, word):
    """Nor pushes anything; a mistyped word is refused."""
    with socket.create_server((schedule.HOST, 0)) as taken:  # or a server might start here
        port = str(taken.getsockname()[1])
        done = python("-m", f"flows.{module}", word, PREFECT_SERVER_API_PORT=port)
    assert "usage: " in (done.stdout if word == "--help" else done.stderr)
    assert done.returncode == (0 if word == "--help" else 2)
