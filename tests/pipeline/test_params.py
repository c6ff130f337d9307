"""params.yaml: what it accepts, and how it refuses the rest."""

from pathlib import Path

import pytest
from conftest import ROOT

from mnist_pipeline import arithmetic, download, evaluate, parallel, save, train
from mnist_pipeline.files import InputError, Record
from mnist_pipeline.params import load_params
from mnist_pipeline.use import spool

SCHEMAS: dict[str, type[Record]] = {
    "data": download.DataParams,
    "runtime": arithmetic.RuntimeParams,
    "train": train.TrainParams,
    "evaluate": evaluate.EvaluateParams,
    "save": save.SaveParams,
    "log": train.LogParams,
    "machine": parallel.MachineParams,
    "app": spool.AppParams,
}
GOOD = (ROOT / "params.yaml").read_text()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


KEYS = [(section, key) for section, schema in SCHEMAS.items() for key in schema.model_fields]


def test_committed_file_loads():
    """params.yaml as committed fits its schemas, key by key and in their order."""
    for section, schema in SCHEMAS.items():
        values = load_params(section, schema, ROOT / "params.yaml").model_dump()
        assert list(values) == list(schema.model_fields)


BAD = [  # in params.yaml, this changed to that, for that section, is refused with these words
    ("lr: 1.0 ", "lr: .nan ", "train", "train.lr: expected a finite number, found nan"),
    ("  lr: 1.0 ", "  # lr ", "train", "train.lr: expected a value, found none"),
    ("lr: 1.0 ", "lrr: 1.0 ", "train", "train.lrr: unknown key"),
    ("epochs: 14 ", "epochs: true ", "train", "train.epochs: expected a valid integer"),
    ("device: auto ", "device: gpu ", "runtime", "runtime.device: expected 'auto', 'cpu'"),
    ("torch: 2.15.0", "torch: latest", "runtime", "runtime.torch: expected the pattern '"),
    ("train:", "trian:", "train", "params.yaml: train: expected keys with values, found None"),
    ("  seed: 1 ", " seed: 1 ", "save", "line 11, column 3: expected YAML, found: "),
    ("  seed: 1 ", "  seed: 2\n  seed: 1 ", "train", 'expected YAML, found: duplicate key "seed"'),
    (GOOD, "", "save", "params.yaml: expected keys with values, found NoneType"),
    (GOOD, "save: 3", "save", "params.yaml: save: expected keys with values, found 3"),
]


@pytest.mark.parametrize(("old", "new", "section", "says"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_file_is_refused_in_one_line(tmp_path, old, new, section, says):
    """Each fault: file, key, what was expected and what was found, in one line."""
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        load_params(section, SCHEMAS[section], path)
    assert says in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_all_faults_of_a_section_are_named_at_once(tmp_path):
    """Nobody has to fix one key to hear of the next."""
    path = written(tmp_path, GOOD.replace("lr: 1.0 ", "lr: -1 ").replace("epochs: 14", "epochs: 0"))
    with pytest.raises(
        InputError, match=r"train.epochs: .*; train.lr: expected greater than 0, found -1"
    ):
        load_params("train", train.TrainParams, path)
