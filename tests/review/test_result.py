"""A result is judged only where its files agree, for the report and for the gate."""

import pytest
from pets import TOTAL, WRONG, make_project

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import parse_result

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


@pytest.mark.parametrize(
    "row",
    [
        f"{TOTAL},cat,owl,0.7",
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
