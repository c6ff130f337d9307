"""A result is judged only where its files agree, for the report and for the gate."""

import json

import pytest
from conftest import ROOT
from pets import TOTAL, WRONG, make_project

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import Wrong, parse_result, read_result

NAMES = ("metrics/metrics.json", "metrics/errors.csv", "dvc.lock")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> dict[str, str]:
    """The three files of a sound result, by name."""
    folder = make_project(tmp_path_factory.mktemp("pets"))
    return {name: (folder / name).read_text() for name in NAMES}


def refused(texts: dict[str, str], name: str, old: str, new: str) -> str:
    """What is said of a result with one piece of text replaced, after the file's name."""
    assert old in texts[name]
    with pytest.raises(InputError) as error:
        parse_result(*(texts | {name: texts[name].replace(old, new, 1)}).values())
    assert str(error.value).startswith(f"{name}: ")
    return str(error.value).removeprefix(f"{name}: ")


def test_committed_result_is_sound():
    """MNIST's: as many errors as metrics.json says, on two files of test data."""
    found = read_result(ROOT)
    assert len(found.errors) == found.metrics.total - found.metrics.correct > 0
    assert len(found.test_set) == 2


def test_classes_are_those_of_the_recall(texts):
    """Whatever they are called; and the test set is what evaluate reads and train did not write."""
    found = parse_result(*texts.values())
    assert len(found.errors) == WRONG
    assert found.errors[0] == Wrong("dog", "owl")
    lock = texts["dvc.lock"]
    assert found.test_set == (lock.partition("path: data/test.csv")[2].split("md5: ")[1][:32],)


@pytest.mark.parametrize(
    "row",
    [
        f"{TOTAL},cat,owl,0.7",
        "-1,cat,owl,0.7",
        "x,cat,owl,0.7",
        "1,cat,owl,0.7",
        "0,cat,cat,0.7",
        "0,cat,cow,0.7",
        "0,cat",
    ],
)
def test_odd_row_is_refused(texts, row):
    """Indices are new and within the test set, and the two classes are known and differ."""
    assert "line " in refused(texts, "metrics/errors.csv", "0,dog,owl,0.7", row)


def test_rows_and_accuracy_must_agree(texts):
    """As many rows as errors, and the accuracy that they make, to the six digits written."""
    found = refused(texts, "metrics/errors.csv", "0,dog,owl,0.7\n", "")
    assert found == f"expected {WRONG} rows, found {WRONG - 1}"
    for accuracy in ("0.950001", "0.949999"):
        found = refused(texts, "metrics/metrics.json", "0.95", accuracy)
        assert found == f"accuracy: expected 950/1000 = 0.950000, found {accuracy}"


def test_six_digits_are_enough(texts):
    """Accuracy is written rounded, and taken so."""
    errors = "\n".join(texts["metrics/errors.csv"].splitlines()[:2])
    metrics = json.loads(texts["metrics/metrics.json"])
    metrics |= {"total": 7, "correct": 6, "accuracy": round(6 / 7, 6)}
    assert len(parse_result(json.dumps(metrics), errors, texts["dvc.lock"]).errors) == 1


@pytest.mark.parametrize("old", ["evaluate:", "data/test.csv"])
def test_lock_without_test_data_is_refused(texts, old):
    """Nobody could say whether two results are of the same test set."""
    lock = texts["dvc.lock"].replace("data/test.csv", "src/test.csv") if "." in old else "{}"
    with pytest.raises(InputError, match=r"^dvc\.lock: "):
        parse_result(*(texts | {"dvc.lock": lock}).values())
