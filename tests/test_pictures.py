"""The report's pictures: drawn from what git holds, and true to it."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.metrics import confusion_matrix

from mnist_pipeline.pictures import HISTORY, confusion, draw, learning_curves, read_history
from mnist_pipeline.results import ERRORS, result
from mnist_pipeline.stage import InputError


def test_both_pictures_are_drawn(tmp_path):
    """Whole PNG files, not blank, whose names come back; equal input gives equal bytes."""
    sides = {"base": result(ROOT), "head": result(ROOT)}
    histories = dict.fromkeys(sides, read_history(ROOT))
    names = draw(histories, sides, tmp_path / "a")
    assert names == [str(tmp_path / "a/learning_curves.png"), str(tmp_path / "a/confusion.png")]
    again = draw(histories, sides, tmp_path / "b")
    for name, other in zip(names, again, strict=True):
        with Image.open(name) as picture, Image.open(other) as same:
            assert min(picture.size) > 400
            assert np.asarray(picture).std() > 10
            assert np.array_equal(np.asarray(picture), np.asarray(same))


def test_one_side_is_drawn_alone(tmp_path):
    """And nothing where there is nothing."""
    assert len(draw({"head": read_history(ROOT)}, {"head": result(ROOT)}, tmp_path)) == 2
    assert draw({}, {}, tmp_path / "empty") == []


def test_confusion_counts_the_errors():
    """As scikit-learn does: a row for each label, a column for each prediction."""
    table = pd.read_csv(ROOT / ERRORS)
    expected = confusion_matrix(table["label"], table["predicted"], labels=range(10))
    assert np.array_equal(confusion(result(ROOT)), expected)


def test_curves_are_the_history():
    """Each line has its column's values by epoch, and says whose it is."""
    table = pd.read_csv(ROOT / HISTORY)
    figure = learning_curves({"base": read_history(ROOT), "head": read_history(ROOT)})
    lines = {line.get_label(): line for axis in figure.axes for line in axis.lines}
    names = {"training loss": "train_loss", "validation loss": "validation_loss"}
    for side in ("base", "head"):
        for what, column in (names | {"validation accuracy": "validation_accuracy"}).items():
            line = lines.pop(f"{side}, {what}")
            assert np.array_equal(line.get_xdata(), table["epoch"])
            assert np.array_equal(line.get_ydata(), table[column])
    assert not lines


def test_training_without_validation_has_gaps(tmp_path):
    """Empty cells, as train.validation_fraction = 0 leaves them, are no numbers."""
    (tmp_path / "metrics").mkdir()
    text = "epoch,lr,train_loss,validation_loss,validation_accuracy\n1,1,0.5,,\n2,0.7,0.4,,\n"
    (tmp_path / HISTORY).write_text(text)
    curves = read_history(tmp_path)
    assert curves["train_loss"] == [0.5, 0.4]
    assert np.isnan(curves["validation_loss"]).all()
    assert len(draw({"head": curves}, {}, tmp_path)) == 1


@pytest.mark.parametrize(
    "old", ["epoch", "train_loss", "1,1,", "0.199729", "\n2,0.7,0.0744674,0.0468025,0.987333"]
)
@pytest.mark.parametrize("new", ["nan", "inf", "1e300", "x", ",,,", json.dumps("a\nb")])
def test_odd_history_is_refused(tmp_path, old, new):
    """Another column, a row of another length, a number out of range, or a text."""
    (tmp_path / "metrics").mkdir()
    text = (ROOT / HISTORY).read_text()
    assert old in text
    (tmp_path / HISTORY).write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=HISTORY):
        read_history(tmp_path)


def test_endless_field_of_history_is_refused(tmp_path):
    """Larger than Python's csv takes: one line that names the file."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / HISTORY).write_text("epoch\n" + "1" * 140_000)
    with pytest.raises(InputError, match=f"{HISTORY}: expected comma-separated values"):
        read_history(tmp_path)
