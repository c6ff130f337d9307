"""The command line: what it lists, what it runs, and how errors end it."""

import io
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext, suppress
from types import SimpleNamespace

import psutil
import pytest
from conftest import exit_status, python, refusal

from mnist_pipeline import __main__
from mnist_pipeline.files import InputError, write_atomically
from mnist_pipeline.leash import leashed

NAMES = sorted(__main__.commands())


def test_every_stage_and_tool_is_listed_with_a_line(monkeypatch, capsys):
    """Alone, and with --help: a name and what it does, each on a line of at most 100 characters."""
    said = []
    for words in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["", *words])
        __main__.main()
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    lines = said[0].splitlines()[2:]
    assert [line.split()[0] for line in lines] == NAMES
    assert {"download", "train", "evaluate", "save", "report"} <= set(NAMES)
    assert all(20 < len(line) <= 100 and line.endswith(".") for line in lines)


def test_an_unknown_name_is_refused(capsys):
    """One line that lists the names; exit status 2."""
    assert refusal(__main__.main, capsys, "trian") == f"trian: expected one of {', '.join(NAMES)}"


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ("params.yaml", "params.yaml: train"),
        ("model.py", "model.py"),
        ("pictures/deep/new.png", "pictures/deep/new.png"),
        ("README.md", ""),
        ("pictures/.DS_Store", ""),
        ("pictures/__pycache__/a.f-1.py311.nbi", ""),
    ],
)
def test_inputs_must_not_change_while_a_stage_runs(tmp_path, monkeypatch, edit, changed):
    """DVC would record the result as that of the new inputs. Other files may change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_STAGE", "../dvc.yaml:fit")  # as from a subfolder
    texts = {"params.yaml": "train: {lr: 1}\nlog: {a: 1}", "model.py": "", "pictures/a.png": ""}
    texts["dvc.yaml"] = "stages: {fit: {cmd: x, params: [train], deps: [model.py, pictures]}}"
    for name, text in texts.items():
        write_atomically(tmp_path / name, text.encode())

    def work() -> None:
        write_atomically(tmp_path / "params.yaml", b"train: {lr: 1}\nlog: {a: 2}")  # no input
        write_atomically(tmp_path / edit, b"train: {lr: 2}")

    monkeypatch.setitem(sys.modules, "fit", SimpleNamespace(main=work))
    monkeypatch.setattr("gc.freeze", lambda: None)  # it would freeze what the tests import
    refused = pytest.raises(InputError, match=rf"^fit: its inputs changed .* \({changed}\); ")
    with refused if changed else nullcontext():
        __main__.call("fit", {"fit": ("fit", "")})


def test_inputs_count_from_before_the_code_is_loaded(tmp_path, monkeypatch):
    """Also in a process of several, and by hand: dvc has told neither the stage's name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    monkeypatch.setattr(sys, "argv", ["train"])
    monkeypatch.setattr("mnist_pipeline.arithmetic.choose", lambda: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    write_atomically(tmp_path / "dvc.yaml", b"stages: {train: {cmd: x, deps: [model.py]}}")
    write_atomically(tmp_path / "params.yaml", b"train: {lr: 1}")
    write_atomically(tmp_path / "model.py", b"old")

    def load(_: str) -> SimpleNamespace:
        write_atomically(tmp_path / "model.py", b"new")
        return SimpleNamespace(main=lambda: None)

    monkeypatch.setattr("importlib.import_module", load)
    with pytest.raises(InputError, match=r"^train: its inputs changed .* \(model\.py\); "):
        __main__.call("train", {"train": ("train", "")})


@pytest.mark.parametrize("name", ["download", "train", "evaluate", "save", "run", "audit"])
def test_what_has_no_options_refuses_them(name, capsys):
    """Nothing runs: --help says what the command would do, and an extra word is refused."""
    assert exit_status(__main__.main, name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m mnist_pipeline {name} [-h]")
    assert exit_status(__main__.main, name, "--epochs", "3") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("unrecognized arguments: --epochs 3\n")


def test_the_environment_must_be_active(capsys):
    """The first python on PATH may be another: one line says so, whichever module it lacks."""
    done = python("-S", "-m", "mnist_pipeline", "train")  # without what is installed
    assert (done.returncode, done.stdout) == (2, "")
    says = r"error: \S+ has no module \w+: source \.venv/bin/activate\n"
    assert re.fullmatch(says, done.stderr)
    with pytest.raises(SystemExit), __main__.one_line_errors():
        raise ModuleNotFoundError(name="torch")
    assert "has no module torch: source .venv" in capsys.readouterr().err


def test_interrupt_is_one_word(capsys):
    """Ctrl-C: no traceback, the status of SIGINT; a second one ends the program at once."""
    try:
        with pytest.raises(SystemExit) as end, __main__.one_line_errors():
            raise KeyboardInterrupt
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_names_of_files_are_printed_as_they_are(monkeypatch):
    """Not every name is UTF-8; everything else is, whatever the locale."""
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="latin-1"))
    with __main__.one_line_errors():
        print("−1:", os.fsdecode(b"caf\xe9.png"))
    assert printed.getvalue() == "−1: ".encode() + b"caf\xe9.png\n"


@pytest.mark.parametrize("under_way", ["pydantic_core", "numpy"])
def test_interrupt_during_an_import_ends_it(workspace, under_way):
    """Ctrl-C: no traceback, however early, and no import that goes on; the status of SIGINT."""
    line = [sys.executable, "-X", "importtime", "-m", "mnist_pipeline", "evaluate"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as stage:
        next(text for text in stage.stderr if under_way in text)
        stage.send_signal(signal.SIGINT)
        rest = stage.stderr.read()
    assert stage.returncode == -signal.SIGINT
    assert all(text.startswith("import time:") for text in rest.splitlines()[:-1])


@pytest.mark.parametrize(
    ("trap", "ends"), [("", (130, "interrupted\n")), ("trap '' INT; ", (2, "error: fifo: "))]
)
def test_interrupt_after_the_imports(tmp_path, trap, ends):
    """One word says so; if SIGINT was ignored, as after a shell's &, it stays ignored."""
    os.mkfifo(fifo := tmp_path / "fifo")
    words = ["sh", "-c", f'{trap}exec "$@"', "sh", sys.executable, "-m", "mnist_pipeline"]
    words += ["markdown", "fifo", "--head", "x"]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as tool:
        with fifo.open("w"):  # it waits until the tool reads
            tool.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                tool.wait(0.2)
        said = tool.stderr.read()
    assert (tool.returncode, said.startswith(ends[1])) == (ends[0], True)


def test_a_reader_that_has_read_enough_is_no_fault():
    """Whoever pipes into head sees no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, "-m", "mnist_pipeline"]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service is Linux's own")
@pytest.mark.parametrize(("variable", "lives"), [("DVC_STAGE", False), ("OTHER", True)])
def test_stage_whose_dvc_is_gone_ends_at_once(tmp_path, variable, lives):
    """Even where dvc was gone before the stage could ask the kernel; other programs go on."""
    # The shell is dvc here: it ends first, its child is adopted by a process of another group.
    code = """
import os, sys, time
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
os.execv(sys.executable, [sys.executable, "-m", "mnist_pipeline", "download"])
"""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{variable}=x '{sys.executable}' -c '{code}' $$ &"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
        start_new_session=True,
    )
    assert ("params.yaml: No such file" in done.stdout) == lives
    assert bool(done.stdout) == lives


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service is Linux's own")
def test_a_command_whose_starter_is_gone_never_starts():
    """Having taken the leash, leash.py checks that its parent is still the starter."""
    _, *words = leashed("echo", "started")
    words[words.index(str(psutil.Process().pid))] = "1"  # a starter that is not the parent
    done = python(*words)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_command_on_a_leash_may_be_missing():
    """One line, and no traceback."""
    done = python(*leashed("no-such-command")[1:])
    assert (done.returncode, done.stderr) == (
        1,
        "error: no-such-command: No such file or directory\n",
    )
