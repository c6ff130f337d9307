"""New images: where each belongs, what a file there must be, and what a training makes of them."""

import io

import numpy as np
import pytest
import torch
from conftest import set_params
from PIL import Image

from mnist_pipeline import evaluate, train
from mnist_pipeline.batches import read_training_data
from mnist_pipeline.files import METRICS, NEW, NEW_TEST, NEW_TRAIN, WEIGHTS, InputError
from mnist_pipeline.files import write_atomically as write
from mnist_pipeline.metrics import parse_metrics
from mnist_pipeline.model import describe, read_weights
from mnist_pipeline.new_images import digest, encode, place, read_new


def image(number: int) -> np.ndarray:
    """One of many images, (28, 28)."""
    return np.random.default_rng(number).integers(0, 256, (28, 28)).astype(np.uint8)


def add(count: int) -> list[str]:
    """Put new images where they belong; returns their names, in order."""
    paths = [place(image(number), number % 10) for number in range(count)]
    for number, path in enumerate(paths):
        write(path, encode(image(number)))
    return sorted(path.name for path in paths)


def test_place_stays_the_same_for_ever():
    """By the pixels, whatever the label: another rule would refuse pictures that are in git."""
    greys = [np.full((28, 28), grey, np.uint8) for grey in range(40)]
    assert str(place(greys[0], 7)) == "data/new/train/7-0c37ddc45244523c.png"
    for label in (1, 2):
        tested = [grey for grey, one in enumerate(greys) if place(one, label).parent == NEW_TEST]
        assert tested == [1, 2, 3, 6, 9, 17, 18, 22, 25, 26, 39]


def bitmap() -> bytes:
    """A picture of another format, mode and size than a new image's."""
    content = io.BytesIO()
    Image.new("RGB", (28, 27)).save(content, "BMP")
    return content.getvalue()


TRAINED = next(number for number in range(50) if place(image(number), 1).parent == NEW_TRAIN)
TESTED = next(number for number in range(50) if place(image(number), 1).parent == NEW_TEST)
NAME = place(image(TRAINED), 1).name


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("seven.png", b"", "expected a name like 7-0123456789abcdef.png"),
        (NAME, b"hello", "expected a picture, found: cannot identify"),
        (NAME, bitmap(), "expected PNG L 28 × 28 .* found BMP RGB 28 × 27"),
        (NAME, encode(image(TESTED)), "by its pixels, expected data/new/"),
        (place(image(TESTED), 1).name, encode(image(TESTED)), "expected data/new/test/1-"),
    ],
)
def test_malformed_file_is_refused(workspace, name, content, reason):
    """Name, format with mode and size, pixels, folder: a line with the file."""
    write(NEW_TRAIN / name, content)
    with pytest.raises(InputError, match=f"^{NEW_TRAIN / name}: .*{reason}"):
        read_new(NEW_TRAIN)


def test_two_labels_for_one_image_are_refused(workspace):
    """A person must decide which label is right."""
    for label in (1, 2):
        write(place(image(TRAINED), label), encode(image(TRAINED)))
    with pytest.raises(InputError, match=f"2{NAME[1:]}: expected one label .* found {NAME} too"):
        read_new(NEW_TRAIN)


def test_training_data_with_new_images(workspace):
    """MNIST's split stays; none of the new ones is held out; each is there as often as asked."""
    before, _ = read_training_data(0.1, seed=1, weight=1)
    names = [name for name in add(20) if (NEW_TRAIN / name).exists()]
    data, found = read_training_data(0.1, seed=1, weight=3)
    assert found == names
    assert torch.equal(data.held_out, before.held_out)
    known = len(before.labels)
    assert torch.equal(data.learned[: len(before.learned)], before.learned)
    assert data.learned[len(before.learned) :].tolist() == 3 * list(
        range(known, known + len(names))
    )
    assert data.labels[known:].tolist() == [int(name[0]) for name in names]
    assert [digest(one.numpy()) for one in data.images[known:]] == [name[2:-4] for name in names]


def test_provenance_covers_every_new_image(workspace):
    """Not only their number or the first one, since stored states are found by the provenance.

    Their weight is a parameter of the training only if there are any.
    """
    params = {"dry_run": False, "new_images_weight": 3}
    known = [describe(params, names) for names in (["a", "b"], ["a", "c"], ["a"], [])]
    assert len({str(one.data) for one in known}) == 4
    assert known[0].parameters == params
    assert known[-1].parameters == {"dry_run": False}


def test_stages_with_new_images(workspace, monkeypatch):
    """Weights, metrics and new.csv name them. A dry run is marked as one."""
    monkeypatch.setattr(evaluate, "draw", lambda *_: b"")  # takes time
    set_params(train={"epochs": 1, "dry_run": True}, machine={"threads": 1})
    names = add(40)
    train.main()
    evaluate.main()
    provenance = read_weights(WEIGHTS)[1]
    assert provenance.parameters["new_images_weight"] == 10
    rows = [line.split(",") for line in NEW.read_text().splitlines()[1:]]
    tested = [name for name in names if (NEW_TEST / name).exists()]
    assert [row[0] for row in rows] == tested
    assert all(row[1] == row[0][0] for row in rows)
    right = sum(row[1] == row[2] for row in rows)
    metrics = parse_metrics(METRICS.read_text())
    assert metrics.dry_run is True
    assert metrics.model_dump()["new"] == {"correct": right, "total": len(tested)}
    assert f"data/new/train: {len(names) - len(tested)} images" in provenance.data
