"""Training: the classic loop, repeatable in every bit."""

import hashlib
import json

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import refusal, set_params
from torch import Tensor
from torch.optim import Adadelta

from mnist_pipeline import train
from mnist_pipeline.dataset import Pairs, normalize, read_pairs
from mnist_pipeline.mnist_files import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.model import WEIGHTS, Net, read_weights
from mnist_pipeline.stage import InputError

FLOAT32 = torch.autocast("cpu", enabled=False)


def epoch(size: int, batch: int, number: int = 1, interval: int = 1000) -> train.Epoch:
    """An epoch over so many images, in order."""
    return train.Epoch(number, torch.arange(size).split(batch), interval)


def noise(size: int) -> Pairs:
    """Random images with labels that are each digit in turn."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size, 28, 28), dtype=torch.uint8, generator=generator)
    return Pairs(images, torch.arange(size) % 10)


def test_split_is_stratified_disjoint_and_complete():
    """Every image on one side; every digit's share as asked; the seed decides which."""
    labels = torch.arange(1000) % 10
    training, validation = train.split(labels, 0.1, seed=1)
    assert sorted(torch.cat([training, validation]).tolist()) == list(range(1000))
    assert labels[validation].bincount().tolist() == [10] * 10
    assert torch.equal(validation, train.split(labels, 0.1, seed=1)[1])
    assert not torch.equal(validation, train.split(labels, 0.1, seed=2)[1])


def test_no_validation_trains_on_everything():
    """A fraction of 0 holds nothing back."""
    training, validation = train.split(torch.arange(1000) % 10, 0.0, seed=1)
    assert training.tolist() == list(range(1000))
    assert len(validation) == 0


def test_fraction_that_leaves_nothing_is_refused():
    """Too few images for a stratified split: one line that names the key."""
    with pytest.raises(InputError, match=r"train.validation_fraction: expected enough images"):
        train.split(torch.arange(1000) % 10, 0.999, seed=1)


def test_order_depends_on_seed_and_epoch_alone():
    """An epoch's order is a permutation, the same whatever came before, another in each epoch."""
    first = train.start_epoch(seed=1, epoch=1, size=1000)
    torch.rand(17)
    assert torch.equal(first, train.start_epoch(seed=1, epoch=1, size=1000))
    assert sorted(first.tolist()) == list(range(1000))
    assert first.tolist() != list(range(1000))
    others = [train.start_epoch(seed, epoch, 1000) for seed, epoch in [(1, 2), (2, 1), (2, 2)]]
    assert len({tuple(order.tolist()) for order in [first, *others]}) == 4


def test_dropout_depends_on_seed_and_epoch_alone():
    """So does the random state that dropout draws from."""
    draws = []
    for epoch in (1, 2, 1):
        torch.rand(len(draws))
        train.start_epoch(seed=1, epoch=epoch, size=10)
        draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[2] != draws[1]


class ClassicNet(Net):
    """The notes' forward pass, line by line and in their layout; the masks are the project's."""

    def __init__(self) -> None:
        super().__init__()
        self.to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(torch.flatten(x, 1))
        x = F.relu(self.fc1(x))
        x = self.dropout2(x)
        return F.log_softmax(self.fc2(x), dim=1)


@pytest.mark.parametrize(("dtype", "steps", "rel"), [("float64", 100, 1e-8), ("float32", 5, 1e-4)])
def test_steps_are_the_classic_loop(workspace, monkeypatch, dtype, steps, rel):
    """Losses equal those of the notes' loop on the same batches and masks, to rounding.

    A hundred steps in float64, since in float32 each step magnifies the rounding of the last.
    """
    kind = getattr(torch, dtype)
    monkeypatch.setattr(train, "normalize", lambda images: normalize(images).to(kind))
    lines: list[float] = []
    monkeypatch.setattr(train, "progress_line", lambda *words: lines.append(words[-1]) or "")
    pairs = read_pairs(TRAIN_IMAGES, TRAIN_LABELS)
    batches = torch.randperm(14 * steps, generator=torch.Generator().manual_seed(3)).split(14)
    torch.manual_seed(1)
    net, classic = Net().to(kind), ClassicNet().to(kind)
    classic.load_state_dict(net.state_dict())
    torch.manual_seed(2)
    each = train.Epoch(1, batches, interval=1)
    result = train.train_epoch(net, Adadelta(net.parameters(), lr=1.0), pairs, each, FLOAT32)
    torch.manual_seed(2)
    optimizer, losses = Adadelta(classic.parameters(), lr=1.0), []
    classic.train()
    for batch in batches:
        data, target = normalize(pairs.images[batch]).to(kind), pairs.labels[batch]
        optimizer.zero_grad()
        loss = F.nll_loss(classic(data), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(lines) == steps
    assert lines == pytest.approx(losses, rel=rel)
    assert result["train_loss"] == pytest.approx(sum(losses) / steps, rel=rel)


def test_progress_line_is_the_notes_own():
    """Epoch, images done of all, percent, loss, as the classic program prints them."""
    line = train.progress_line(epoch(60_000, 64), 10, 0.456123)
    assert line == "Train Epoch: 1 [640/60000 (1%)]\tLoss: 0.456123"


def test_progress_lines_come_at_the_interval(capsys):
    """Batches 0, 2, 4 of 5 at an interval of 2."""
    net = Net()
    optimizer = Adadelta(net.parameters())
    train.train_epoch(net, optimizer, noise(20), epoch(20, 4, number=3, interval=2), FLOAT32)
    lines = capsys.readouterr().out.splitlines()
    starts = [line.split("\t")[0] for line in lines]
    assert starts == [f"Train Epoch: 3 [{n}/20 ({5 * n}%)]" for n in (0, 8, 16)]


def test_infinite_loss_is_refused():
    """A learning rate that blows up ends the training with one line that names it."""
    net = Net()
    optimizer = Adadelta(net.parameters(), lr=1e30)
    with pytest.raises(InputError, match=r"train.lr: expected a finite loss in epoch 1, found "):
        train.train_epoch(net, optimizer, noise(30), epoch(30, 5), FLOAT32)


def test_bfloat16_repeats_bit_by_bit_and_stays_near_float32():
    """The same mathematics with shorter products: near float32, never equal, always the same."""
    losses, weights = {}, []
    for precision in ("float32", "bfloat16", "bfloat16"):
        autocast = train.start_autocast(torch.device("cpu"), precision)
        torch.manual_seed(1)
        net = Net()
        optimizer = Adadelta(net.parameters(), lr=1.0)
        row = train.train_epoch(net, optimizer, noise(48), epoch(48, 16), autocast)
        losses[precision] = row["train_loss"]
        weights.append(torch.cat([tensor.flatten() for tensor in net.parameters()]))
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert weights[1].dtype == torch.float32
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("supported", [True, False])
def test_slow_bfloat16_is_warned_about(monkeypatch, capsys, supported):
    """One line where the CPU has no bfloat16, none where it has."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    train.start_autocast(torch.device("cpu"), "float32")
    assert capsys.readouterr().err == ""
    train.start_autocast(torch.device("cpu"), "bfloat16")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (0 if supported else 1)
    assert all("train.precision: this CPU" in line for line in lines)


def test_stage_writes_weights_history_and_environment(workspace, capsys):
    """Two epochs on the digits: a row each, the schedule's rates, falling losses, provenance."""
    set_params(train={"epochs": 2})
    train.main()
    history = pd.read_csv(train.HISTORY)
    columns = ["epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"]
    assert list(history.columns) == columns
    assert history["lr"].tolist() == [1.0, 0.7]
    assert history["train_loss"].is_monotonic_decreasing
    assert json.loads(train.ENVIRONMENT.read_text())["torch"] == torch.__version__
    provenance = read_weights(WEIGHTS)[1]
    assert provenance.dry_run is False
    assert provenance.parameters["epochs"] == 2
    for path in (TRAIN_IMAGES, TRAIN_LABELS):
        assert provenance.data[path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "Validation set: Average loss: " in capsys.readouterr().out


def test_dry_run_takes_one_step_and_says_so(workspace, capsys):
    """One line of progress, one row of history, and the mark in the weights."""
    set_params(train={"dry_run": True})
    train.main()
    assert capsys.readouterr().out.count("Train Epoch") == 1
    assert len(pd.read_csv(train.HISTORY)) == 1
    assert read_weights(WEIGHTS)[1].dry_run is True


def test_no_validation_leaves_its_columns_empty(workspace):
    """validation_fraction 0: the curve has no validation, and does not invent one."""
    set_params(train={"dry_run": True, "validation_fraction": 0})
    train.main()
    history = pd.read_csv(train.HISTORY)
    assert history["validation_loss"].isna().all()
    assert history["validation_accuracy"].isna().all()


def test_refusals_leave_no_output(workspace, capsys):
    """Bad input: one line, and not one output written."""
    TRAIN_LABELS.write_bytes(b"poison")
    assert str(TRAIN_LABELS) in refusal(train.main, capsys)
    TRAIN_LABELS.unlink()
    assert str(TRAIN_LABELS) in refusal(train.main, capsys)
    assert not any(path.exists() for path in (WEIGHTS, train.HISTORY, train.ENVIRONMENT))
