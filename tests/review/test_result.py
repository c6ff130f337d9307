"""A result is what the files in git say that dvc.lock names."""

import pytest
from pets import make_project

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import Answer, parse_result, read_result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a sound result."""
    return make_project(tmp_path_factory.mktemp("pets"))


def test_errors_by_index(folder):
    """Label and prediction of each; no new images where none were tested."""
    found = read_result(folder)
    assert len(found.errors) == found.metrics.total - found.metrics.correct == 50
    assert found.errors[1] == Answer("cat", "owl")
    assert found.new == {}


def test_other_columns_are_refused(folder):
    """By the file's name, with the columns that it should have."""
    texts = [(folder / name).read_text() for name in ("metrics/metrics.json", "dvc.lock")]
    with pytest.raises(InputError, match=r"metrics/errors.csv: expected columns index, label"):
        parse_result(texts[0], "number,label\n1,cat\n", lock=texts[1])
    good = "index,label,predicted\n1,cat,owl\n"
    with pytest.raises(InputError, match=r"metrics/new.csv: expected columns name, label"):
        parse_result(texts[0], good, good, lock=texts[1])
