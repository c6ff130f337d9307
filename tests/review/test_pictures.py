"""The report's pictures: drawn from what git holds, and true to it."""

import shutil

import numpy as np
import pytest
from pets import WRONG, make_project, plant
from PIL import Image

from mnist_pipeline.files import write_atomically
from mnist_pipeline.review import pictures
from mnist_pipeline.review.pictures import illustrate
from mnist_pipeline.review.result import read_result


@pytest.fixture
def folders(tmp_path):
    """The base and the head of a report."""
    (tmp_path / "base").mkdir()
    base = make_project(tmp_path / "base")
    return [base, shutil.copytree(base, tmp_path / "head")]


def test_both_pictures_are_drawn(folders, tmp_path):
    """Whole PNG files, not blank."""
    assert illustrate(folders, tmp_path / "pictures") == []
    for name in ("learning_curves.png", "confusion.png"):
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert min(picture.size) > 400
            assert np.asarray(picture).std() > 10


def test_what_cannot_be_drawn_is_said(folders, tmp_path):
    """Errors that are gone, a new image that is no PNG: the other picture is drawn all the same.

    None of an earlier report stays.
    """
    (folders[1] / "metrics/errors.csv").unlink()
    (new := folders[1] / "data/new/test").mkdir(parents=True)
    Image.new("L", (28, 28)).save(new / "7-0.png")
    short = (new / "7-0.png").read_bytes().replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x05IHDR")
    for name in ("confusion.png", "new_images.png"):
        write_atomically(tmp_path / "pictures" / name, b"an earlier report's")
    for content in (short, b"no"):
        (new / "7-0.png").write_bytes(content)
        missing, broken = illustrate(folders, tmp_path / "pictures")
        assert missing == "confusion.png: metrics/errors.csv: expected a file, found none"
        assert broken.startswith("new_images.png: ")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["learning_curves.png"]


def test_new_images_that_go_or_get_another_label(folders, monkeypatch):
    """What is gone is red; an image with another label stands beside itself.

    The title counts all of them, also where the picture does not show them all.
    """
    monkeypatch.setattr(pictures, "SHOWN", 2)
    for folder, names in zip(folders, (("1-a", "3-b"), ("7-a",)), strict=True):
        (folder / "data/new/train").mkdir(parents=True)
        for name in names:
            Image.new("L", (28, 28)).save(folder / f"data/new/train/{name}.png")
    figure = pictures.new_images(folders)
    assert figure.get_suptitle().startswith("1 images added (blue: to test with), 2 removed (red)")
    shown = [(axis.get_title(), axis.title.get_color()) for axis in figure.axes if axis.images]
    assert shown == [("1", "tab:red"), ("7", "black")]


def test_confusion_counts_the_errors(folders):
    """A row for each label and a column for each prediction, in the order of the classes."""
    for axis in pictures.confusion(folders).axes:
        assert axis.images[0].get_array().tolist() == [[0, 0, 25], [0, 0, 25], [0, 0, 0]]
        assert [text.get_text() for text in axis.texts if text.get_text()] == ["25", "25"]


def test_confusion_of_models_without_errors(folders):
    """Two tables of zeros."""
    for folder in folders:
        plant(folder, fixed=WRONG)
    for axis in pictures.confusion(folders).axes:
        assert not axis.images[0].get_array().any()


def test_axes_say_what_they_show(folders):
    """Each curve names its side, and both axes of a confusion name the classes."""
    left, right = pictures.learning_curves(folders).axes
    assert (left.get_xlabel(), right.get_title()) == ("epoch", "Validation accuracy")
    named = [text.get_text() for text in right.get_legend().get_texts()]
    assert named == ["base, validation accuracy", "head, validation accuracy"]
    names = list(read_result(folders[0]).metrics.recall)
    for axis in pictures.confusion(folders).axes:
        assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted", "label")
        for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
            assert [text.get_text() for text in labels] == names
