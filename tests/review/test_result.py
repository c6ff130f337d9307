"""A result is what the files in git say that dvc.lock names."""

import hashlib
import json

import pytest
from pets import edit, lock, make_project, plant
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import read_result

METRICS, ERRORS = "metrics/metrics.json", "metrics/errors.csv"


@pytest.fixture
def folder(tmp_path):
    """A folder with a sound result."""
    return make_project(tmp_path)


def write(folder, name, text):
    """Put a file into a result, and its MD5 into dvc.lock."""
    (folder / name).write_text(text)
    tree = YAML(typ="safe").load(folder / "dvc.lock")
    outs = tree["stages"]["evaluate"]["outs"]
    outs = [out for out in outs if out["path"] != name]
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    tree["stages"]["evaluate"]["outs"] = [*outs, {"path": name, "md5": md5}]
    (folder / "dvc.lock").write_text(json.dumps(tree))


def test_other_columns_are_refused(folder):
    """By the file's name, with the columns that it should have."""
    write(folder, "metrics/new.csv", "index,label,predicted\n1,cat,owl\n")
    with pytest.raises(InputError, match=r"metrics/new.csv: expected columns name, label"):
        read_result(folder)
    write(folder, "metrics/errors.csv", "number,label\n1,cat\n")
    with pytest.raises(InputError, match=r"metrics/errors.csv: expected columns index, label"):
        read_result(folder)


def test_new_test_images_leave_the_test_set_as_it_is(folder):
    """One more changes what evaluate reads, and results stay comparable on the others."""
    before = read_result(folder).test_set
    tree = YAML(typ="safe").load(folder / "dvc.lock")
    tree["stages"]["evaluate"]["deps"].append({"path": "data/new/test", "md5": "a.dir"})
    (folder / "dvc.lock").write_text(json.dumps(tree))
    assert read_result(folder).test_set == before


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (ERRORS, "0,dog,owl,0.7\n", "", "expected 50 errors on 1000 images, .* found 49"),
        (ERRORS, "\n0,dog,owl", "\n1,cat,owl", "expected 50 errors"),  # one is there twice
        (ERRORS, "\n0,dog,owl", "\n0,dog,dog", "expected 50 errors"),
        (ERRORS, "\n0,dog,owl", "\n1000,dog,owl", "expected 50 errors"),
        (ERRORS, "\n0,dog,owl,0.7", "\n0,dog", "expected columns index, label, predicted"),
        (METRICS, '"accuracy": 0.95', '"accuracy": 0.96', "correct and total say 0.95, found 0.96"),
    ],
)
def test_files_that_disagree_are_refused(folder, name, old, new, says):
    """A fault of one's own score, say: the errors are those that the metrics count."""
    edit(folder, name, old, new)
    lock(folder)
    with pytest.raises(InputError, match=f"^{name}: .*{says}"):
        read_result(folder)


def test_a_model_without_errors(folder):
    """It has a table without rows."""
    plant(folder, fixed=50)
    assert read_result(folder).errors == {}
