"""params.yaml: what it accepts, and how it refuses the rest."""

import dataclasses
from pathlib import Path

import pytest
from conftest import ROOT

from mnist_pipeline import download, evaluate, runtime, save, train
from mnist_pipeline.files import InputError, Record
from mnist_pipeline.params import SECTIONS, load_params

SCHEMAS: dict[str, type[Record]] = {
    "data": download.DataParams,
    "runtime": runtime.RuntimeParams,
    "train": train.TrainParams,
    "evaluate": evaluate.EvaluateParams,
    "save": save.SaveParams,
    "log": train.LogParams,
}
GOOD = (ROOT / "params.yaml").read_text()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


KEYS = [(section, key) for section, schema in SCHEMAS.items() for key in schema.model_fields]


def test_every_section_has_a_schema():
    """No section without a schema, no schema without a section."""
    assert tuple(SCHEMAS) == SECTIONS


def test_committed_file_loads():
    """params.yaml as committed fits its schemas, key by key and in their order."""
    for section, schema in SCHEMAS.items():
        values = load_params(section, schema, ROOT / "params.yaml").model_dump()
        assert list(values) == list(schema.model_fields)


def test_scientific_notation_is_a_number(tmp_path):
    """1e-3 is a number, as it is to DVC (and is not to PyYAML)."""
    path = written(tmp_path, GOOD.replace("lr: 1.0 ", "lr: 1e-3 "))
    assert load_params("train", train.TrainParams, path).lr == 0.001


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_refuses_another_type(tmp_path, section, key):
    """A list where a scalar belongs: one line that names file, key and what was found."""
    lines = GOOD.splitlines()
    start = lines.index(f"{section}:")
    at = next(i for i in range(start, len(lines)) if lines[i].startswith(f"  {key}:"))
    lines[at] = f"  {key}: [1]"
    path = written(tmp_path, "\n".join(lines))
    with pytest.raises(InputError, match=rf"params.yaml: {section}.{key}: .*found \[1\]") as error:
        load_params(section, SCHEMAS[section], path)
    assert "\n" not in str(error.value)


@dataclasses.dataclass
class Bad:
    """A change to params.yaml and what the refusal must say."""

    old: str
    new: str
    section: str
    says: str


BAD = [
    Bad("lr: 1.0 ", "lr: -1 ", "train", "train.lr: expected greater than 0, found -1"),
    Bad("lr: 1.0 ", "lr: .nan ", "train", "train.lr: expected a finite number, found nan"),
    Bad("  lr: 1.0 ", "  # lr ", "train", "train.lr: expected a value, found none"),
    Bad("lr: 1.0 ", "lrr: 1.0 ", "train", "train.lrr: unknown key"),
    Bad("epochs: 14 ", "epochs: 0 ", "train", "train.epochs: expected greater than or equal to 1"),
    Bad("epochs: 14 ", "epochs: true ", "train", "train.epochs: expected a valid integer"),
    Bad("device: auto ", "device: gpu ", "runtime", "runtime.device: expected 'auto', 'cpu'"),
    Bad("accuracy: 0.95 ", "accuracy: 95 ", "save", "expected less than or equal to 1, found 95"),
    Bad("train:", "trian:", "save", "trian: expected one of data, runtime, train"),
    Bad("  seed: 1 ", " seed: 1 ", "save", "line 11, column 3: expected YAML, found: "),
    Bad("lr: 1.0 ", "seed: 1 ", "save", "expected YAML, found: found duplicate key"),
    Bad(GOOD, "", "save", "params.yaml: expected keys with values, found NoneType"),
    Bad(GOOD, "data: {source: mnist}", "save", "save: expected a section of this name, found none"),
    Bad(GOOD, "save: 3", "save", "params.yaml: save: expected a valid dictionary"),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.says[:40])
def test_bad_file_is_refused_in_one_line(tmp_path, bad):
    """Each fault: file, key, what was expected and what was found, in one line."""
    assert bad.old in GOOD
    path = written(tmp_path, GOOD.replace(bad.old, bad.new, 1))
    with pytest.raises(InputError) as error:
        load_params(bad.section, SCHEMAS[bad.section], path)
    assert bad.says in str(error.value)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_all_faults_of_a_section_are_named_at_once(tmp_path):
    """Nobody has to fix one key to hear of the next."""
    path = written(tmp_path, GOOD.replace("lr: 1.0 ", "lr: -1 ").replace("epochs: 14", "epochs: 0"))
    with pytest.raises(InputError, match=r"train.epochs: .*; train.lr: "):
        load_params("train", train.TrainParams, path)
