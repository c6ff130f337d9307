"""A result is what the files in git say, if they are the ones that dvc.lock names."""

import pytest
from pets import edit, lock, make_project, write
from ruamel.yaml import YAML

from mnist_pipeline.files import InputError
from mnist_pipeline.review.result import read_result

METRICS, ERRORS = "metrics/metrics.json", "metrics/errors.csv"


@pytest.fixture
def folder(tmp_path):
    """A folder with a sound result."""
    return make_project(tmp_path)


@pytest.mark.parametrize("path", ["data/new/test", "src", "models/weights/best"])
def test_new_images_code_and_weights_are_no_test_set(folder, path):
    """They change what evaluate reads, and results stay comparable; folders or files in them."""
    before = read_result(folder).test_set
    tree = YAML(typ="safe").load(folder / "dvc.lock")
    tree["stages"]["evaluate"]["deps"].append({"path": path, "md5": "a.dir"})
    write(folder, "dvc.lock", tree)
    assert read_result(folder).test_set == before
    edit(folder, "dvc.lock", f"path: {path}\n", "path: data/new/test.csv\n")
    assert read_result(folder).test_set != before


def test_renamed_test_data_is_the_same_test_set(folder):
    """DVC sorts what evaluate reads by name; its bytes are what counts."""
    tree = YAML(typ="safe").load(folder / "dvc.lock")
    deps, found = tree["stages"]["evaluate"]["deps"], []
    for name in ("data/a.csv", "data/z.csv"):
        both = [*deps, {"path": name, "md5": "labels"}]
        tree["stages"]["evaluate"]["deps"] = sorted(both, key=lambda each: each["path"])
        write(folder, "dvc.lock", tree)
        found.append(read_result(folder).test_set)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (ERRORS, "0,dog,owl,0.7\n", "", "expected 50 errors on 1000 images, .* found 49"),
        (ERRORS, "\n0,dog,owl", "\n0,dog,dog", "expected 50 errors"),
        (ERRORS, "\n0,dog,owl", "\n1000,dog,owl", "expected 50 errors"),
        (ERRORS, "index,", "number,", "expected columns index, label, predicted"),
        (ERRORS, "\n0,dog,owl,0.7", "\n0,dog", "expected columns index, label, predicted"),
        (METRICS, '"accuracy": 0.95', '"accuracy": 0.96', "correct / total = 0.95, found 0.96"),
    ],
)
def test_files_that_disagree_are_refused(folder, name, old, new, says):
    """The errors must be those that the metrics count, whatever a user's own score writes."""
    edit(folder, name, old, new)
    lock(folder)
    with pytest.raises(InputError, match=f"^{name}: .*{says}"):
        read_result(folder)
