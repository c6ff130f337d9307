"""The exported model: whole, plain, explained; or not exported."""

import json
from typing import Any

import pytest
import torch
from conftest import refusal

from mnist_pipeline import save
from mnist_pipeline.files import CARD, ENVIRONMENT, METRICS, MODEL, WEIGHTS
from mnist_pipeline.mnist import SHA256, TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.model import Net, Provenance, write_weights

NUMBERS: dict[str, Any] = {
    "accuracy": 0.99,
    "loss": 0.03,
    "correct": 9900,
    "total": 10_000,
    "recall": {"0": 1.0, "1": 0.98},
    "dry_run": False,
}
OFFICIAL = {path.name: SHA256[path.name] for path in (TRAIN_IMAGES, TRAIN_LABELS)}


@pytest.fixture
def evaluated(workspace):
    """A workspace after train and evaluate."""
    torch.manual_seed(0)
    write(Net(), data=OFFICIAL)
    METRICS.parent.mkdir()
    change_metrics()
    ENVIRONMENT.write_text(json.dumps({"device": "cpu", "threads": 2}))


def change_metrics(**changes: Any) -> None:
    METRICS.write_text(json.dumps(NUMBERS | changes))


def write(net: Net, data: dict[str, str]) -> None:
    parameters = {"seed": 1, "lr": 1.0}
    write_weights(WEIGHTS, net, Provenance(dry_run=False, parameters=parameters, data=data))


def test_card_says_what_the_model_is(evaluated):
    """Data with their hashes, parameters, metrics and environment."""
    save.main()
    card = CARD.read_text()
    assert "MNIST's training images" in card
    for row in (
        f"| {TRAIN_IMAGES.name} | {SHA256[TRAIN_IMAGES.name]} |",
        "| accuracy | 0.99 |",
        "| recall.1 | 0.98 |",
        "| lr | 1.0 |",
        "| threads | 2 |",
        "Tested on 10,000 images",
    ):
        assert row in card
    assert "dry run" not in card.lower()
    write(Net(), data=OFFICIAL | {"data/new/train: 3 images": "00"})
    save.main()
    assert "Trained on MNIST's training images, and data/new/train: 3 images:" in CARD.read_text()
    write(Net(), data=OFFICIAL | {TRAIN_LABELS.name: "0" * 64})
    save.main()
    assert "files other than MNIST's published ones" in CARD.read_text()


def test_weak_model_is_not_exported(evaluated, capsys):
    """Below the floor: one line with both numbers, no model, no card. At the floor, a model."""
    change_metrics(accuracy=0.9499)
    says = refusal(save.main, capsys)
    assert "expected at least save.min_accuracy = 0.95, found 0.9499" in says
    assert not MODEL.exists()
    assert not CARD.exists()
    change_metrics(accuracy=0.95)
    save.main()
    assert MODEL.exists()


def test_dry_run_is_exported_and_marked(evaluated):
    """Whatever its accuracy; the card says first what it is."""
    change_metrics(dry_run=True, accuracy=0.1)
    save.main()
    assert MODEL.exists()
    assert "**A dry run:**" in CARD.read_text()


def test_bad_metrics_are_refused(evaluated, capsys):
    """A number that is not finite, a missing mark: one line, nothing exported."""
    change_metrics(loss=float("nan"))
    assert refusal(save.main, capsys).startswith(f"{METRICS}: expected JSON, found: NaN")
    METRICS.write_text(json.dumps({k: v for k, v in NUMBERS.items() if k != "dry_run"}))
    assert refusal(save.main, capsys).startswith(f"{METRICS}: dry_run: ")
    assert not MODEL.exists()
