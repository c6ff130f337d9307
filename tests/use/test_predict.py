"""The command predict: a line for each picture, for people or programs, and for each bad file."""

import json
from functools import partial

import pytest
from conftest import exit_status, python, refusal
from serving import model
from test_digit import SEVEN, drawing

from mnist_pipeline.use import predict

run = partial(exit_status, predict.main)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A working folder with an untrained network, two pictures, and a file that is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/mnist_cnn.onnx").write_bytes(model(0))
    drawing().save("empty.png")
    drawing(SEVEN).save("seven.png")
    (tmp_path / "notes.txt").write_text("seven")


def test_a_line_a_picture(pictures, capsys):
    """The digit, its probability, the runner-up; as JSON the same."""
    assert run("seven.png", "seven.png") == 0
    text, same = capsys.readouterr().out.splitlines()
    assert text == same
    assert run("seven.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    first, second = answer["probability"], answer["runner_up_probability"]
    assert 0 < second <= first
    assert answer["digit"] != answer["runner_up"]
    expected = f"{answer['digit']} ({first:.1%}), else {answer['runner_up']} ({second:.1%})"
    assert text == f"seven.png: {expected}"


def test_bad_pictures_do_not_stop_the_others(pictures, capsys):
    """A line on stderr for each, and exit status 2 at the end."""
    assert run("none.png", "notes.txt", "empty.png", "seven.png") == 2
    said = capsys.readouterr()
    assert said.out.startswith("seven.png: ")
    assert said.err.splitlines() == [
        "error: none.png: No such file or directory",
        "error: notes.txt: expected a picture such as JPEG or PNG, found something else",
        "error: empty.png: expected a digit, found none",
    ]


def test_other_models(pictures, capsys):
    """A file that save did not write, a missing file, and an empty stage name are refused."""
    refused = partial(refusal, predict.main, capsys, "seven.png")
    assert refused("--model", "notes.txt").startswith("notes.txt: expected an ONNX file")
    said = "none.onnx: expected an ONNX file that save wrote, found none; "
    said += "make run writes one (of digits: in build/digits)"
    assert refused("--model", "none.onnx") == said
    both = refused("--model", "none.onnx", "--repository", ".")
    assert both.startswith("--repository: expected a version of it")
    assert "git ls-remote" in refused("--stage", "")  # no repository here


def test_neither_torch_nor_dvc_is_loaded():
    """Neither by predict nor by app: loading them would take seconds."""
    code = "import sys; from mnist_pipeline.use import app, predict; print(*sys.modules)"
    loaded = set(python("-c", code).stdout.split())
    assert "mnist_pipeline.use.predict" in loaded
    assert not {"torch", "torchvision", "dvc", "prefect", "sklearn"} & loaded
