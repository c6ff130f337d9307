"""Pictures into data/new: in MNIST's form, in the folder that their pixels decide, once."""

from functools import partial

import pytest
from conftest import exit_status, refusal
from PIL import Image
from test_digit import SEVEN, drawing

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import NEW_TEST, NEW_TRAIN
from mnist_pipeline.mnist import TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.new_images import read_new
from mnist_pipeline.use import add_images

run = partial(exit_status, add_images.main)


def draw(path, width: int = 20) -> None:
    """A seven."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing(SEVEN, width=width).save(path)


def added() -> list[str]:
    """Names of the new images of both folders, which must be valid."""
    return [name for folder in (NEW_TRAIN, NEW_TEST) for name in read_new(folder)[0]]


def test_label_and_pictures(workspace, capsys):
    """Each says where it went; a second time, or with another label, it is refused by name."""
    for width in (10, 11, 12):
        draw(workspace / f"{width}.png", width)
    assert run("7", *sorted(workspace.glob("1?.png"))) == 0
    said = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert sorted(path.rpartition("/")[2] for path in said.values()) == sorted(added())
    assert len(added()) == 3
    for label in ("7", "1"):
        draw(workspace / "new.png", 25 + int(label))
        assert run(label, workspace / "10.png", workspace / "new.png") == 2
        where = said[str(workspace / "10.png")]
        expected = f"error: {workspace / '10.png'}: expected a new image, found it in {where}\n"
        assert capsys.readouterr().err == expected
    assert len(added()) == 5  # the others were added


def test_folder_with_subfolders(workspace, capsys):
    """The subfolder is the label; other files, and a picture with two labels, are refused."""
    draw(workspace / "all/7/a.png", 12)
    draw(workspace / "all/9/again.png", 12)
    draw(workspace / "all/3/b.png", 14)
    (workspace / "all/3/notes.txt").write_text("three")
    (workspace / "all/3/.DS_Store").write_text("a file manager's")
    assert run(workspace / "all") == 2
    assert {name[0] for name in added()} == {"3", "7"}
    no_picture, again = capsys.readouterr().err.splitlines()
    assert "all/3/notes.txt: expected a picture" in no_picture
    assert "all/9/again.png: expected a new image, found it in data/new/" in again


def test_mnists_own_images_are_refused(workspace, capsys):
    """They would be trained twice, or trained and tested."""
    images, _ = read_pairs(TRAIN_IMAGES, TRAIN_LABELS)
    Image.fromarray(images[5]).save(workspace / "known.png")
    assert run("3", workspace / "known.png") == 2
    expected = f"expected a new image, found it in MNIST ({TRAIN_IMAGES.name}, 5)"
    assert expected in capsys.readouterr().err
    assert added() == []


def test_outside_a_checkout(workspace, capsys, monkeypatch):
    """No training would find the pictures there."""
    (workspace / "docs").mkdir()
    monkeypatch.chdir(workspace / "docs")
    expected = f"{workspace}/docs: expected the project's checkout, found no params.yaml"
    assert refusal(add_images.main, capsys, "7", "a.png") == expected


@pytest.mark.parametrize(
    "words", [["12", "a.png"], ["7"], ["nowhere"], ["all", "a.png"], ["", "a"]]
)
def test_other_command_lines_are_refused(workspace, capsys, words):
    """One line that says what is expected."""
    draw(workspace / "all/7/a.png")
    assert "expected a label 0 to 9 and pictures" in refusal(add_images.main, capsys, *words)
    assert added() == []
