"""A result is what the files in git say that dvc.lock names."""

import hashlib
import json

import pytest
from pets import make_project
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import read_result


@pytest.fixture
def folder(tmp_path):
    """A folder with a sound result."""
    return make_project(tmp_path)


def write(folder, name, text):
    """Put a file into a result, and its MD5 into dvc.lock."""
    (folder / name).write_text(text)
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    outs = lock["stages"]["evaluate"]["outs"]
    outs = [out for out in outs if out["path"] != name]
    md5 = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
    lock["stages"]["evaluate"]["outs"] = [*outs, {"path": name, "md5": md5}]
    (folder / "dvc.lock").write_text(json.dumps(lock))


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
    lock = YAML(typ="safe").load(folder / "dvc.lock")
    lock["stages"]["evaluate"]["deps"].append({"path": "data/new/test", "md5": "a.dir"})
    (folder / "dvc.lock").write_text(json.dumps(lock))
    assert read_result(folder).test_set == before
