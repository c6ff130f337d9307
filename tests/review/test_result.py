"""A result is what the files in git say that dvc.lock names."""

import json

import pytest
from pets import make_project
from ruamel.yaml import YAML

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


def test_new_test_images_leave_the_test_set_as_it_is(folder):
    """One more changes what evaluate reads, and results stay comparable on the others."""
    texts = [(folder / f"metrics/{name}").read_text() for name in ("metrics.json", "errors.csv")]
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    before = parse_result(*texts, lock=json.dumps(lock)).test_set
    lock["stages"]["evaluate"]["deps"].append({"path": "data/new/test", "md5": "a.dir"})
    assert parse_result(*texts, lock=json.dumps(lock)).test_set == before
