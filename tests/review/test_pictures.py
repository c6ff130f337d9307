"""The report's pictures: drawn from what git holds, and true to it."""

import shutil

import numpy as np
import pytest
from pets import make_project
from PIL import Image

from mnist_pipeline.review import pictures
from mnist_pipeline.review.pictures import confusion, illustrate
from mnist_pipeline.review.result import read_result


@pytest.fixture
def folders(tmp_path):
    """The base and the head of a report."""
    (tmp_path / "base").mkdir()
    base = make_project(tmp_path / "base")
    return [base, shutil.copytree(base, tmp_path / "head")]


def test_both_pictures_are_drawn(folders, tmp_path):
    """Whole PNG files, not blank; equal input gives equal bytes."""
    for target in ("a", "b"):
        assert illustrate(folders, tmp_path / target) == []
    for name in ("learning_curves.png", "confusion.png"):
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        with Image.open(tmp_path / "a" / name) as picture:
            assert min(picture.size) > 400
            assert np.asarray(picture).std() > 10


def test_what_cannot_be_drawn_is_said(folders, tmp_path):
    """The other side is drawn all the same; where both are missing, there is no picture."""
    (folders[0] / "metrics/history.csv").unlink()
    for folder in folders:
        (folder / "metrics/errors.csv").unlink()
    faults = illustrate(folders, tmp_path / "pictures")
    sides = [fault.rpartition(": metrics/")[0] for fault in faults]
    assert sides[1:] == ["confusion.png: base", "confusion.png: head"]
    assert faults[0].startswith("learning_curves.png: base: ")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["learning_curves.png"]


def test_picture_that_is_none_is_said(folders, tmp_path):
    """A new image that is no PNG costs its own picture alone, also that of an earlier report."""
    new = folders[1] / "data/new/test"
    new.mkdir(parents=True)
    Image.new("L", (28, 28)).save(new / "7-0.png")
    assert illustrate(folders, tmp_path / "pictures") == []
    (new / "7-0.png").write_text("no")
    (fault,) = illustrate(folders, tmp_path / "pictures")
    assert fault.startswith("new_images.png: ")
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {"learning_curves.png", "confusion.png"}


def test_new_images_are_counted_beyond_those_shown(folders, monkeypatch):
    """The title says how many there are, also where the picture does not show them all."""
    monkeypatch.setattr(pictures, "SHOWN", 2)
    (folders[1] / "data/new/test").mkdir(parents=True)
    names = [f"data/new/test/7-{number}.png" for number in range(3)]
    for name in names:
        Image.new("L", (28, 28)).save(folders[1] / name)
    figure = pictures.new_images(folders[1], names)
    assert figure.get_suptitle().startswith("3 images added")
    assert sum(len(axis.images) for axis in figure.axes) == 2


def test_confusion_counts_the_errors(folders):
    """A row for each label and a column for each prediction, in the order of the classes."""
    assert confusion(read_result(folders[0])) == [[0, 0, 25], [0, 0, 25], [0, 0, 0]]


def test_axes_say_what_they_show(folders):
    """Each curve names its side, and both axes of a confusion name the classes."""
    histories = {folder.name: pictures.read_history(folder) for folder in folders}
    left, right = pictures.learning_curves(histories).axes
    assert (left.get_xlabel(), right.get_title()) == ("epoch", "Validation accuracy")
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["base, validation accuracy", "head, validation accuracy"]
    results = {folder.name: read_result(folder) for folder in folders}
    for axis in pictures.confusions(results).axes:
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "label")
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            assert [text.get_text() for text in labels] == list(results["base"].metrics.recall)
