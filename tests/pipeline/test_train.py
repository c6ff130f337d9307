"""Training: the classic loop, repeatable in every bit."""

import hashlib
import json
import os
from unittest.mock import patch

import pandas as pd
import pytest
import torch
from conftest import EPOCHS, TRAIN, refusal, set_params
from torch import Tensor
from torch.nn.functional import nll_loss
from torch.optim import Adadelta

from mnist_pipeline import train
from mnist_pipeline.batches import Data, draw_seed, read_training_data, split
from mnist_pipeline.checkpoint import Checkpoint
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import ENVIRONMENT, HISTORY, WEIGHTS, InputError
from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.model import normalize, read_weights
from mnist_pipeline.parallel import Workers

SMALL = {"epochs": 1, "batch_size": 4, "micro_batches": 2, "new_images_weight": 1}


def training(threads: int = 2, **changes) -> train.Training:
    """A training on the CPU with these parameters changed."""
    torch.set_num_threads(1)
    params = train.TrainParams(**TRAIN | SMALL).model_copy(update=changes)
    return train.Training(params, torch.device("cpu"), Workers(threads))


def noise(size: int) -> Data:
    """Random images, labels that are each digit in turn, all to be learned."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size, 28, 28), dtype=torch.uint8, generator=generator)
    return Data(images, torch.arange(size) % 10, torch.arange(size), torch.arange(0))


def test_split_is_stratified_disjoint_and_complete():
    """Every image on one side; every digit's share as asked; the seed decides which."""
    labels = torch.arange(1000) % 10
    rest, validation = split(labels, 0.1, seed=1)
    assert sorted(torch.cat([rest, validation]).tolist()) == list(range(1000))
    assert labels[validation].bincount().tolist() == [10] * 10
    assert torch.equal(validation, split(labels, 0.1, seed=1)[1])
    assert not torch.equal(validation, split(labels, 0.1, seed=2)[1])


def test_fraction_that_leaves_nothing_is_refused():
    """Too few images for a stratified split: one line that names the key."""
    with pytest.raises(InputError, match=r"train.validation_fraction: expected enough images"):
        split(torch.arange(1000) % 10, 0.999, seed=1)


def test_an_epoch_depends_on_seed_and_epoch_alone(monkeypatch):
    """Its order is a permutation, and order and dropout are the same whatever came before."""

    def epoch(seed: int, number: int) -> tuple[list[int], float]:
        torch.rand(seed + number)
        order: list[int] = []
        drawn: list[float] = []

        def gradient(part: train.Part, total: int) -> list[Tensor]:
            order.extend(part[0][:, 0, 0].tolist())
            drawn.append(torch.rand((), generator=part[2]).item())
            return [torch.zeros(()), *map(torch.zeros_like, run.net.parameters())]

        run = training(seed=seed, threads=1)
        monkeypatch.setattr(run, "gradient", gradient)
        run.train_epoch(number, noise(40)._replace(images=images), 1000)
        assert len(set(drawn)) == 20  # each part of each batch has a dropout of its own
        return order, sum(drawn)

    images = torch.arange(40, dtype=torch.uint8)[:, None, None].expand(40, 28, 28)
    first = epoch(1, 1)
    assert first == epoch(1, 1)
    assert sorted(first[0]) == list(range(40)) != first[0]
    others = [first, epoch(1, 2), epoch(2, 1), epoch(2, 2)]
    assert len({tuple(order) for order, _ in others}) == len({drawn for _, drawn in others}) == 4


def test_steps_are_the_classic_loop(workspace, monkeypatch):
    """Losses equal those of the classic loop on the same batches and masks, up to rounding.

    Ten steps in float64, since in float32 each step magnifies the rounding of the last.
    """
    from benchmarks import classic  # noqa: PLC0415 (torchvision takes seconds)

    monkeypatch.setattr(train, "normalize", lambda images: normalize(images).double())
    images, labels = map(torch.from_numpy, read_pairs(TRAIN_IMAGES, TRAIN_LABELS))
    batches = torch.randperm(14 * 10, generator=torch.Generator().manual_seed(3)).split(14)
    run, net = training(micro_batches=1), classic.Net().double()
    run.net.double()
    net.load_state_dict(run.net.state_dict())
    net.dropout1, net.dropout2 = run.net.dropout1, run.net.dropout2
    run.net.train()
    found = [run.step(images[batch], labels[batch], (1, 0)).item() for batch in batches]
    masks = torch.Generator()
    for dropout in (run.net.dropout1, run.net.dropout2):
        dropout.register_forward_pre_hook(lambda _, given: (*given, masks))
    optimizer = Adadelta(net.parameters(), lr=1.0)
    losses = []
    for batch in batches:
        masks.manual_seed(draw_seed(1, 1, 0, 0))
        x = normalize(images[batch]).double()
        losses.append(classic.step(net, x, labels[batch], optimizer).item())
    assert found == pytest.approx(losses, rel=1e-8)


def test_weights_that_are_added_each_have_a_gradient_of_their_own():
    """Torch gives both one gradient in the same memory; parts would be added to it twice.

    So with the elements of one gradient, where a weight is summed up.
    """

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = (torch.nn.Parameter(torch.ones(10)) for _ in range(2))
            self.c = torch.nn.Parameter(torch.ones(10))

        def forward(self, x: Tensor, _: torch.Generator) -> Tensor:
            answers = torch.log_softmax(x.flatten(1)[:, :10] * (self.a + self.b), 1)
            return answers + self.c.sum()

    gradients = []
    for parts in (1, 4):
        run = training(micro_batches=parts, batch_size=8)
        run.net = run.working = Sum()
        run.optimizer = Adadelta(run.net.parameters())
        data = noise(8)
        run.step(data.images[:, 14:], data.labels, (1, 0))
        gradients.append(torch.cat([weight.grad for weight in run.net.parameters()]))
    assert gradients[0].abs().min() > 0
    torch.testing.assert_close(*gradients)


def test_the_first_process_says_how_many_epochs(tmp_path, monkeypatch):
    """Or processes of which one was told of fewer would wait for it in vain."""
    monkeypatch.chdir(tmp_path)
    run = training(epochs=1)
    monkeypatch.setattr(run.workers, "share", lambda value: 2 if value == 1 else value)
    run.run_epochs(noise(8), 1000, Checkpoint({}))
    assert len(run.history) == 2


def test_progress_lines_are_the_notes_own_and_come_at_the_interval(capsys):
    """Batches 0, 2, 4 of 5 at an interval of 2: epoch, images done of all, percent, loss.

    The images done are right for the last batch, too, which is smaller.
    """
    training().train_epoch(3, noise(18), interval=2)
    lines = [line.split("\tLoss: ") for line in capsys.readouterr().out.splitlines()]
    expected = [f"Train Epoch: 3 [{n}/18 ({5 * n}%)]" for n in (0, 8, 16)]
    assert [line[0] for line in lines] == expected
    assert all(0 < float(line[1]) < 100 for line in lines)


@pytest.mark.parametrize(("only_one_step", "loss"), [(False, "train"), (True, "validation")])
def test_infinite_loss_is_refused(tmp_path, monkeypatch, only_one_step, loss):
    """A learning rate that blows up ends the training with one line that names it."""
    monkeypatch.chdir(tmp_path)
    data = noise(30)._replace(held_out=torch.arange(30))
    run = training(lr=1e30, dry_run=only_one_step)
    expected = rf"train.lr: expected a finite {loss}_loss in epoch 1, found "
    with pytest.raises(InputError, match=expected):
        run.run_epochs(data, 1000, Checkpoint({}))


def test_bfloat16_repeats_bit_by_bit_and_stays_near_float32():
    """The same mathematics with shorter products: near float32, never equal, always the same."""
    losses, weights = {}, []
    for precision in ("float32", "bfloat16", "bfloat16"):
        run = training(precision=precision, batch_size=16)
        losses[precision] = run.train_epoch(1, noise(48), interval=1000)
        weights.append(torch.cat([tensor.flatten() for tensor in run.net.parameters()]))
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert weights[1].dtype == torch.float32
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_stage_writes_weights_history_and_environment(undisturbed, monkeypatch):
    """On the digits: a row an epoch, the schedule's rates, a loss that falls, provenance.

    The last row is what plain PyTorch makes of the weights and of the images held out alone.
    """
    monkeypatch.chdir(undisturbed)
    said, history = undisturbed.with_suffix(".log").read_text(), pd.read_csv(HISTORY)
    columns = ["epoch", "lr", "train_loss", "validation_loss", "validation_accuracy"]
    assert list(history.columns) == columns
    assert history["lr"].tolist() == pytest.approx([0.7**number for number in range(EPOCHS)])
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert json.loads(ENVIRONMENT.read_text())["torch"] == torch.__version__.split("+")[0]
    provenance = read_weights(WEIGHTS)[1]
    assert provenance.dry_run is False
    assert provenance.parameters["epochs"] == EPOCHS
    files = {path.name: path.read_bytes() for path in (TRAIN_IMAGES, TRAIN_LABELS)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert provenance.data == hashes  # and no new images
    data, _ = read_training_data(fraction=0.5, seed=1, weight=1)
    images, labels = data.images[data.held_out], data.labels[data.held_out]
    with torch.no_grad():
        answers = read_weights(WEIGHTS)[0].eval()(normalize(images))
    right, total = int((answers.argmax(1) == labels).sum()), len(labels)
    assert 0 < right < total
    last = history.iloc[-1]
    assert last["validation_accuracy"] == pytest.approx(right / total, rel=1e-5)
    assert last["validation_loss"] == pytest.approx(nll_loss(answers, labels).item(), rel=1e-4)
    line = f"Validation set: Average loss: {last['validation_loss']:.4f}, "
    assert f"{line}Accuracy: {right}/{total} ({100 * right / total:.2f}%)" in said


def test_dry_run_takes_one_step_and_no_validation_leaves_its_columns_empty(workspace, capsys):
    """One line of progress, one row, the mark in the weights; no invented validation."""
    set_params(train={"dry_run": True, "validation_fraction": 0})
    train.main()
    assert capsys.readouterr().out.count("Train Epoch") == 1
    history = pd.read_csv(HISTORY)
    assert len(history) == 1
    assert history[["validation_loss", "validation_accuracy"]].isna().all(axis=None)
    assert read_weights(WEIGHTS)[1].dry_run is True


def test_refusals_leave_no_output(workspace, capsys):
    """Bad input: one line, and not one output written."""
    before = (workspace / "params.yaml").read_text()
    for section, change, says in (
        ("train", {"micro_batches": 128}, "at most train.batch_size = 64, found 128"),
        ("machine", {"processes": 8}, "a multiple of the number of processes, 8, found 4"),
        ("train", {"precision": "bfloat16"}, "bfloat16 needs runtime.arithmetic: native"),
    ):
        set_params(**{section: change})
        assert says in refusal(train.main, capsys)
        (workspace / "params.yaml").write_text(before)
    place = {"WORLD_SIZE": "3", "RANK": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    with patch.dict(os.environ, place):  # by torchrun
        assert "a multiple of the number of processes, 3, found 4" in refusal(train.main, capsys)
    TRAIN_LABELS.write_bytes(b"poison")
    assert str(TRAIN_LABELS) in refusal(train.main, capsys)
    assert not any(path.exists() for path in (WEIGHTS, HISTORY, ENVIRONMENT))
