"""params.yaml: what it accepts, and how it refuses the rest."""

import re

import pytest
from conftest import ROOT

from mnist_pipeline import check
from mnist_pipeline.files import InputError, load_params
from mnist_pipeline.parallel import MachineParams
from mnist_pipeline.train import LogParams
from mnist_pipeline.use.spool import AppParams

SCHEMAS = check.SCHEMAS | {"log": LogParams, "machine": MachineParams, "app": AppParams}
GOOD = (ROOT / "params.yaml").read_text()


KEYS = [(section, key) for section, schema in SCHEMAS.items() for key in schema.model_fields]


BAD = [  # a pattern in params.yaml, its replacement, the section to load, the refusal
    (r"lr: \S+", "lr: .nan", "train", "train.lr: expected a finite number, found nan"),
    (r"  lr: ", "  # ", "train", "train.lr: expected a value, found none"),
    (r"lr: ", "lrr: ", "train", "train.lrr: unknown key"),
    (r"epochs: \S+", "epochs: true", "train", "train.epochs: expected a valid integer"),
    (r"(?s)epochs: \S+(.*)lr: \S+", r"epochs: 0\1lr: 0", "train", "found 0; train.lr: expected"),
    (r"device: \S+", "device: gpu", "runtime", "runtime.device: expected 'auto', 'cpu'"),
    (r"arithmetic: \S+", "arithmetic: fast", "runtime", "runtime.arithmetic: expected 'portable'"),
    (r"torch: \S+", "torch: latest", "runtime", "runtime.torch: expected the pattern '"),
    (r"train:", "trian:", "train", "params.yaml: train: expected keys with values, found None"),
    (r"  seed: ", " seed: ", "save", "line 11, column 3: expected YAML, found: "),
    (r"  seed: ", "  seed: 2\n  seed: ", "train", 'expected YAML, found: duplicate key "seed"'),
    (r"(?s).*", "", "save", "params.yaml: expected keys with values, found NoneType"),
    (r"(?s).*", "save: 3", "save", "params.yaml: save: expected keys with values, found 3"),
]


@pytest.mark.parametrize(("old", "new", "section", "says"), BAD, ids=[bad[3][:40] for bad in BAD])
def test_bad_file_is_refused_in_one_line(tmp_path, old, new, section, says):
    """All faults of a section: file, key, what was expected and what was found, in one line."""
    (tmp_path / "params.yaml").write_text(re.sub(old, new, GOOD, count=1))
    with pytest.raises(InputError) as error:
        load_params(section, SCHEMAS[section], tmp_path)
    assert says in str(error.value)
    assert str(error.value).startswith("params.yaml:")
    assert "\n" not in str(error.value)
