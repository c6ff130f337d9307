"""Metrics that can be checked by hand, and a picture."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import refusal
from matplotlib import style
from PIL import Image

from mnist_pipeline import evaluate
from mnist_pipeline.files import ERRORS, METRICS, NEW, PICTURE, WEIGHTS
from mnist_pipeline.metrics import parse_metrics
from mnist_pipeline.mnist import TEST_IMAGES


def answers(*rows: tuple[int, float]) -> np.ndarray:
    """Class probabilities: for each row the answer with its confidence, the rest even."""
    probabilities = np.empty((len(rows), 10))
    for row, (digit, confidence) in zip(probabilities, rows, strict=True):
        row[:] = (1 - confidence) / 9
        row[digit] = confidence
    return probabilities


def test_metrics_by_hand():
    """Counts, loss and recall of eleven images, of which one 0 is taken for a 1."""
    labels = np.array([*range(10), 0])
    probabilities = answers(*[(digit, 0.9) for digit in range(10)], (1, 0.6))
    metrics = evaluate.score(probabilities, labels)
    assert metrics["correct"] == 10
    assert metrics["total"] == 11
    assert metrics["accuracy"] == round(10 / 11, 6)
    loss = -(10 * np.log(0.9) + np.log(0.4 / 9)) / 11
    assert metrics["loss"] == pytest.approx(loss, abs=1e-6)
    assert metrics["recall"] == {"0": 0.5} | {str(digit): 1.0 for digit in range(1, 10)}
    assert metrics["macro_f1"] == pytest.approx((8 + 2 * (2 / 3)) / 10, abs=1e-6)


def test_calibration_error_by_hand():
    """Fifteen bins, weighted by size: two images above 14/15, one below it, one far below.

    A confidence between two bins counts in the lower one.
    """
    probabilities = answers((0, 0.99), (0, 0.935), (0, 0.931), (0, 0.6))
    error = evaluate.expected_calibration_error(probabilities, np.array([0, 1, 0, 0]))
    assert error == pytest.approx((abs(0.99 + 0.935 - 1) + abs(0.931 - 1) + abs(0.6 - 1)) / 4)
    error = evaluate.expected_calibration_error(answers((0, 0.6), (0, 0.59)), np.array([1, 0]))
    assert error == pytest.approx((0.6 + 0.59 - 1) / 2)


def test_errors_are_listed_by_index():
    """Index, label, answer and confidence of the wrong ones, nothing of the right ones."""
    probabilities = torch.from_numpy(answers((3, 0.8), (4, 0.7), (5, 0.6)))
    errors = evaluate.misclassified(probabilities, torch.tensor([3, 9, 6]))
    assert errors[["index", "label", "predicted"]].to_numpy().tolist() == [[1, 9, 4], [2, 6, 5]]
    assert errors["confidence"].tolist() == pytest.approx([0.7, 0.6])


@pytest.mark.parametrize("number", [0, 100])
def test_picture_for_any_number_of_errors(number, monkeypatch):
    """A PNG, wide enough to read, the same bytes each time, whatever style the user prefers."""
    monkeypatch.setattr(evaluate, "SHOWN", 8)  # each takes time
    images = torch.zeros(100, 28, 28, dtype=torch.uint8)
    errors = pd.DataFrame({"index": range(100), "label": 1, "predicted": 7, "confidence": 0.5})
    picture = evaluate.draw(images, errors.head(number))
    with style.context("dark_background"):
        assert picture == evaluate.draw(images, errors.head(number))
    with Image.open(io.BytesIO(picture)) as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_picture_shows_the_most_confident_errors(monkeypatch):
    """Of more errors than fit, the black image is shown only if its answer is the surest."""
    monkeypatch.setattr(evaluate, "SHOWN", 8)  # each takes time
    images = torch.zeros(100, 28, 28, dtype=torch.uint8)
    images[50] = 255
    dark = []
    for confidence in (0.4, 0.6):
        errors = pd.DataFrame({"index": range(100), "label": 1, "predicted": 7, "confidence": 0.5})
        errors.loc[50, "confidence"] = confidence
        with Image.open(io.BytesIO(evaluate.draw(images, errors))) as picture:
            dark.append(sum(picture.convert("L").histogram()[:64]))
    assert dark[1] > dark[0] + 5_000


def test_stage_writes_what_it_found(undisturbed, monkeypatch):
    """metrics.json agrees with errors.csv; without new images it has no section on them."""
    monkeypatch.chdir(undisturbed)
    metrics = parse_metrics(METRICS.read_text())
    errors = pd.read_csv(ERRORS)
    assert metrics.dry_run is False
    assert metrics.total == 360
    assert "new" not in metrics.model_dump()
    assert NEW.read_text() == "name,label,predicted,confidence\n"
    assert len(errors) == metrics.total - metrics.correct
    assert list(errors.columns) == ["index", "label", "predicted", "confidence"]
    assert (errors["label"] != errors["predicted"]).all()
    assert PICTURE.is_file()


def test_refusals_leave_no_output(workspace, capsys):
    """Missing weights, foreign data: one line, not one output."""
    assert refusal(evaluate.main, capsys) == f"No such file or directory: {WEIGHTS}"
    TEST_IMAGES.write_bytes(b"poison")
    assert refusal(evaluate.main, capsys).startswith(f"{TEST_IMAGES}: expected")
    assert not any(path.exists() for path in (METRICS, ERRORS, PICTURE))
