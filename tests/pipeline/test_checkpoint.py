"""Going on from a stored epoch: the same bytes as never having stopped."""

import hashlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import set_params
from test_train import noise
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from mnist_pipeline import checkpoint, train
from mnist_pipeline.checkpoint import Checkpoint
from mnist_pipeline.files import (
    HISTORY,
    WEIGHTS,
    InputError,
    inputs_at_start,
    load_params,
    write_atomically,
)
from mnist_pipeline.model import Provenance
from mnist_pipeline.parallel import Workers

WORK = {"parameters": {"lr": 1.0}}
BASE = {"dry_run": False, "parameters": {"lr": 1.0, "epochs": 2}, "data": {}}


@pytest.fixture
def repository(workspace, monkeypatch):
    """A stage's working folder in a DVC repository; few images."""
    (workspace / ".dvc").mkdir()
    few = noise(32)._replace(held_out=torch.arange(10))
    monkeypatch.setattr(train, "read_training_data", lambda *_: (few, []))
    set_params(train={"batch_size": 16})
    return workspace


@pytest.fixture
def outcome(repository, capsys):
    """Trains this many epochs; returns weights, history, the epochs worked on, and stderr."""

    def outcome(epochs: int, **parameters) -> tuple[str, str, list[int], str]:
        set_params(train={"epochs": epochs} | parameters)
        train.main()
        out, err = capsys.readouterr()
        worked = {int(line.split()[2]) for line in out.splitlines() if "Train Epoch:" in line}
        # Of the weights' file only the tensors: its provenance names the number of epochs.
        tensors = safetensors.torch.load_file(WEIGHTS)
        digest = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
        return digest, HISTORY.read_text(), sorted(worked), err

    return outcome


def stored() -> list[Path]:
    """The states in the working folder's cache."""
    return sorted(Path(".dvc/cache/resume").glob("*.pt"))


def test_more_epochs_go_on(outcome):
    """1 → 2 trains one epoch to a fresh run's bytes; fewer epochs start afresh."""
    assert outcome(1)[2] == [1]
    extended, again = outcome(2), outcome(2)
    assert (extended[2], again[2]) == ([2], [])
    assert again[:2] == extended[:2]
    stored()[0].unlink()
    fresh = outcome(2)
    assert fresh[2] == [1, 2]
    assert fresh[:2] == extended[:2]
    assert outcome(1)[2] == [1]
    assert [path.name.split("-")[1] for path in stored()] == ["00001"]


def test_where_the_schedule_knows_their_number_more_epochs_start_afresh(outcome, monkeypatch):
    """As in a cosine's, in which each epoch's learning rate depends on it."""

    def cosine(optimizer: Optimizer, **_: Any) -> CosineAnnealingLR:
        return CosineAnnealingLR(optimizer, load_params("train", train.TrainParams).epochs)

    monkeypatch.setattr(train, "StepLR", cosine)
    assert (outcome(1)[2], outcome(1)[2], outcome(2)[2]) == ([1], [], [1, 2])


def test_dry_run_keeps_and_finds_nothing(outcome):
    """It always does its one step."""
    assert outcome(1, dry_run=True)[2] == [1]
    assert outcome(1, dry_run=True)[2] == [1]
    assert stored() == []


def test_key_holds_the_code(repository, monkeypatch, tmp_path):
    """A change in any loaded module gives another key.

    Also in one of a folder inside the package, and in the module that python -m runs.
    """
    package = tmp_path / "package"
    files = {"mnist_pipeline.model": "model.py", "mnist_pipeline.review": "review/__init__.py"}
    files |= {"__main__": "__main__.py", "mnist_pipeline.checkpoint": "checkpoint.py"}
    for name, file in files.items():
        write_atomically(package / file, b"")
        monkeypatch.setattr(sys.modules[name], "__file__", str(package / file), raising=False)
    keys = [Checkpoint(WORK).key, Checkpoint(WORK).key]
    for file in files.values():
        (package / file).write_text("another line")
        keys.append(Checkpoint(WORK).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 5


def test_key_of_a_training(repository):
    """Its parameters but for the number of epochs, its data, and its environment."""
    same, others = {"parameters": {"lr": 1.0, "epochs": 3}}, {"parameters": {"lr": 2.0}}
    keys = [
        train.find_checkpoint(Provenance(**BASE | changed), others, Workers(1)).key
        for changed in ({}, same, others, {"data": {"a.gz": "00"}})
        for others in ({}, {"environment": {"torch": "1"}})
    ]
    assert keys[:2] == keys[2:4]
    assert len(set(keys)) == 6


@pytest.fixture
def inputs(repository):
    """The train stage depends on this file, a section of params.yaml and another file's keys."""
    stage = b"{cmd: x, deps: [classes.csv], params: [train, augment.shift, {more.yaml: [a]}]}"
    write_atomically(Path("dvc.yaml"), b"stages: {train: %s}" % stage)
    write_atomically(file := Path("classes.csv"), b"old")
    return file


def test_key_holds_whatever_the_stage_depends_on(inputs):
    """Also what is neither code of this package, MNIST's files nor the section train."""

    def key() -> str:
        inputs_at_start.cache_clear()
        return train.find_checkpoint(Provenance(**BASE), {}, Workers(1)).key

    keys = [key(), key()]
    for path in (inputs, Path("more.yaml"), Path("params.yaml")):
        old = path.read_bytes() if path.exists() else b""
        write_atomically(path, old + b"\naugment: {shift: 2}\n")
        keys.append(key())
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    set_params(train={"epochs": 7})
    assert key() == keys[-1]


def test_files_that_change_while_train_loads_them_are_refused(inputs):
    """Nobody knows which of the two contents was loaded, so no key would be true."""
    inputs_at_start("train")
    write_atomically(inputs, b"new")
    with pytest.raises(InputError, match=r"^train: its inputs changed .* \(classes\.csv\); "):
        train.find_checkpoint(Provenance(**BASE), {}, Workers(1))


def test_a_state_that_could_not_be_read_is_refused(repository):
    """At once, not when it is needed: one line that names what is in it. The old one stays."""
    point = Checkpoint(WORK)
    with point.lock(wait=True):
        point.save({"after": 1}, 1)
        with pytest.raises(InputError, match=r"state_dict: expected tensors, .*multiarray\.scalar"):
            point.save({"after": np.float64(2)}, 2)
    assert point.load(2) == {"after": 1}


def test_the_newest_state_counts(repository):
    """Also if a kill has left the one before it."""
    point = Checkpoint(WORK)
    with point.lock(wait=True):
        point.save({"after": 1}, 1)
        (older,) = stored()
        content = older.read_bytes()
        point.save({"after": 2}, 2)
        older.write_bytes(content)
    assert [point.load(epoch) for epoch in (1, 2, 3)] == [{"after": 1}, {"after": 2}, {"after": 2}]


def test_with_a_damaged_state_training_starts_afresh(outcome):
    """One flipped bit: one warning that names the file, and the same result."""
    good = outcome(1)
    (path,) = stored()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = outcome(1)
    assert again[2] == [1]
    assert again[:2] == good[:2]
    assert again[3] == f"warning: {path}: damaged, therefore not used\n"
    assert stored() == [path]


def test_number_of_states_is_bounded_and_the_oldest_go_first(repository, monkeypatch):
    """All keys together keep no more than KEPT, and so does what a kill has left half written."""
    monkeypatch.setattr(checkpoint, "KEPT", 2)
    write_atomically(left := checkpoint.dvc_cache() / "resume/.x-00001-y.pt.tmp", b"half")
    os.utime(left, (0, 0))
    for age, name in enumerate("abc"):
        point = Checkpoint({"name": name})
        with point.lock(wait=True):
            point.save({"name": name}, epoch=1)
        for path in stored():
            os.utime(path, (path.stat().st_mtime - 10 * (3 - age),) * 2)
    found = [Checkpoint({"name": name}).load(1) for name in "abc"]
    assert found == [None, {"name": "b"}, {"name": "c"}]
    assert not left.exists()


def test_second_training_with_the_same_work_waits(repository, capsys):
    """It says that it waits, and goes on when the first one has ended; or refuses to wait."""

    def train() -> None:
        with Checkpoint({}).lock(wait=True):
            pass

    with ThreadPoolExecutor() as pool:
        with Checkpoint({}).lock(wait=True):
            with pytest.raises(InputError, match=r"^train: another training does the same: wait"):
                Checkpoint({}).lock(wait=False)
            second, said = pool.submit(train), ""
            for _ in range(100):
                if not said and not wait([second], timeout=0.1).done:
                    said = capsys.readouterr().out
            assert not second.done()
        second.result(timeout=60)
    assert said == "Waiting for another process that trains the same\n"


def test_states_lie_beside_a_shared_cache(repository, tmp_path_factory):
    """Where DVC's cache.dir points elsewhere, another clone finds them there."""
    shared = tmp_path_factory.mktemp("shared")
    (repository / ".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")
    assert Checkpoint(WORK).folder == shared / "resume"
