"""The check of params.yaml, and of other values for its keys, without running anything."""

import json

import pytest
from conftest import refusal, set_params

from mnist_pipeline import check


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train.lr": [1.0, -1]}, "values: train.lr: expected greater than 0, found -1"),
        ({"train.speed": [1]}, "values: train.speed: unknown key"),
        ({"train.lr": 0.5}, "values: train.lr: expected a list, found 0.5"),
        ({"train": [1]}, "values: train: expected a key of data, runtime"),
        ({"machine.threads": [1]}, "values: machine.threads: expected a key of data, runtime"),
    ],
)
def test_values_are_refused_by_name(workspace, capsys, values, message):
    """One line: the key, what was expected, what was found."""
    assert refusal(check.main, capsys, json.dumps(values)).startswith(message)


def test_values_are_shown_as_their_schema_has_them(workspace, monkeypatch, capsys):
    """On the last line, for the search: a 1 where a fraction is allowed is 1.0."""
    values = {"train.lr": [1, 0.5], "train.epochs": [1]}
    monkeypatch.setattr("sys.argv", ["check", json.dumps(values)])
    check.main()
    assert capsys.readouterr().out.splitlines()[-1] == (
        '{"train.lr": [1.0, 0.5], "train.epochs": [1]}'
    )


@pytest.mark.parametrize(
    ("params", "key"),
    [
        ({"evaluate": {"batch_size": 0}}, "evaluate.batch_size"),
        ({"log": {"interval": 0}}, "log.interval"),
        ({"app": {"spool": -1}}, "app.spool"),
        ({"machine": {"processes": 8}}, "train.micro_batches"),
    ],
)
def test_params_are_refused_by_name(workspace, capsys, params, key):
    """Values of params.yaml are refused as by their stage, also two that exclude each other."""
    set_params(**params)
    assert f"params.yaml: {key}: expected" in refusal(check.main, capsys)
