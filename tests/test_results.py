"""A result is read strictly, for the gate and for the report."""

import json
import math

import pytest
from conftest import ROOT

from mnist_pipeline import results
from mnist_pipeline.results import ERRORS, LOCK, METRICS, Wrong, flatten, load_yaml, parse, result
from mnist_pipeline.stage import InputError

TEXTS = {name: (ROOT / name).read_text() for name in (METRICS, ERRORS, LOCK)}
BOMB = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
MERGES = "m0: &m0 {a: 1}\n" + "".join(
    f"m{level + 1}: &m{level + 1}\n  <<: [{', '.join([f'*m{level}'] * 10)}]\n" for level in range(9)
)


def test_committed_result_is_sound():
    """This checkout's own: as many errors as metrics.json says, each of them another digit."""
    found = result(ROOT)
    assert len(found.errors) == found.metrics.total - found.metrics.correct > 0
    assert all(wrong.label != wrong.predicted for wrong in found.errors.values())
    assert len(found.test_set) == 2


def edit(name: str, old: str, new: str) -> str:
    """What `parse` says of the committed result with one piece of text replaced."""
    texts = TEXTS | {name: TEXTS[name].replace(old, new, 1)}
    assert texts != TEXTS
    with pytest.raises(InputError) as refused:
        parse(*texts.values())
    message = str(refused.value)
    assert message.startswith(name)
    assert len(message) < 500
    return message


ROW = TEXTS[ERRORS].splitlines()[1]  # index,label,predicted,confidence
INDEX, LABEL, PREDICTED, CONFIDENCE = ROW.split(",")


@pytest.mark.parametrize(
    "row",
    [
        f"10000,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"-1,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"1e2,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"{INDEX}.0,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"nan,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"٣,{LABEL},{PREDICTED},{CONFIDENCE}",
        f"{INDEX},{LABEL},{LABEL},{CONFIDENCE}",
        f"{INDEX},10,{PREDICTED},{CONFIDENCE}",
        f"{INDEX},{LABEL},-1,{CONFIDENCE}",
        f"{INDEX},{LABEL},{PREDICTED},nan",
        f"{INDEX},{LABEL},{PREDICTED},1.5",
        f"{INDEX},{LABEL},{PREDICTED}",
        f"{ROW},1",
        f"{ROW}\n{ROW}",
        "",
    ],
)
def test_odd_row_is_refused(row):
    """Indices are new and within the test set, digits differ and are digits."""
    assert "a new index below 10000" in edit(ERRORS, f"\n{ROW}\n", f"\n{row}\n")


def test_rows_and_accuracy_must_agree():
    """As many rows as errors, and accuracy what they make of it, to the six digits written."""
    assert "rows, found" in edit(ERRORS, f"{ROW}\n", "")
    assert "columns" in edit(ERRORS, "index,", "indices,")
    accuracy = json.loads(TEXTS[METRICS])["accuracy"]
    for wrong in (accuracy + 1e-6, accuracy - 1e-6):
        message = edit(METRICS, f'"accuracy": {accuracy}', f'"accuracy": {wrong:.6f}')
        assert "accuracy: expected 1 - " in message


@pytest.mark.parametrize(
    ("total", "errors"), [(3, 1), (7, 3), (1797, 14), (999_999, 1), (10**6, 2)]
)
def test_six_digits_are_enough(total, errors):
    """Accuracy is written rounded, and taken so."""
    numbers = json.loads(TEXTS[METRICS]) | {
        "total": total,
        "correct": total - errors,
        "accuracy": round((total - errors) / total, 6),
    }
    rows = [f"{index},1,2,0.500000" for index in range(errors)]
    table = "\n".join([results.COLUMNS, *rows]) + "\n"
    assert parse(json.dumps(numbers), table, TEXTS[LOCK]).errors[0] == Wrong(1, 2)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", ["accuracy", "loss", "ece", "5"])
def test_number_that_is_not_finite_is_refused(key, value):
    """Whatever its name, also where nobody asked for it."""
    line = next(line for line in TEXTS[METRICS].splitlines() if f'"{key}"' in line)
    assert "finite" in edit(METRICS, line, f'"{key}": {value},')


@pytest.mark.parametrize("key", ["accuracy", "loss", "correct", "total", "dry_run"])
@pytest.mark.parametrize("value", ["null", '"1"', "[]"])
def test_mistyped_metric_is_refused(key, value):
    """A text, a list or nothing; one line that names the key."""
    line = next(line for line in TEXTS[METRICS].splitlines() if f'"{key}"' in line)
    comma = "," * line.endswith(",")
    assert key in edit(METRICS, line, f'"{key}": {value}{comma}')


@pytest.mark.parametrize("name", list(TEXTS))
@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 2000, "\0", "a: b", "1", "- x"])
def test_other_text_is_refused(name, text):
    """Empty, halves, other types, too deep: InputError, whatever the parser makes of it."""
    with pytest.raises(InputError, match=f"^{name}"):
        parse(*(TEXTS | {name: text}).values())


@pytest.mark.parametrize(
    "lock",
    [
        "stages: []",
        "stages: {}",
        "stages: {evaluate: x}",
        "stages: {evaluate: {deps: x}}",
        "stages: {evaluate: {deps: [x]}}",
        "stages: {evaluate: {deps: [{path: x}]}}",
        "stages: {evaluate: {deps: [{path: x, md5: y}]}}",
        "stages: {evaluate: {deps: 1}}",
        "a: !!python/object:os.system x",
        "a: !!int x",
        "? [a]\n: b",
        "a: *missing",
    ],
)
def test_odd_lock_is_refused(lock):
    """Whatever is in it: InputError that names dvc.lock."""
    with pytest.raises(InputError, match=r"^dvc.lock"):
        parse(TEXTS[METRICS], TEXTS[ERRORS], lock)


def test_missing_large_and_binary_files_are_refused(tmp_path):
    """Also a folder in a file's place."""
    (tmp_path / "metrics").mkdir()
    with pytest.raises(InputError, match="expected a file, found none"):
        result(tmp_path)
    (tmp_path / METRICS).write_bytes(b"\xff")
    with pytest.raises(InputError, match="expected UTF-8"):
        result(tmp_path)
    (tmp_path / METRICS).write_bytes(b" " * 100_001)
    with pytest.raises(InputError, match="at most 100,000 bytes, found 100,001"):
        result(tmp_path)
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).mkdir()
    with pytest.raises(InputError, match="expected a file, found none"):
        result(tmp_path)


def test_flatten_is_bounded():
    """So many values, though their dotted keys may be the same, and so many levels."""
    with pytest.raises(InputError, match="at most 1,000 values"):
        flatten({str(key): 1 for key in range(1001)}, "x")
    with pytest.raises(InputError, match="at most 1,000 values"):
        flatten({"a": {"b": [1] * 600}, "a.b": [1] * 600}, "x")
    assert list(flatten(load_yaml("a: " + "[" * 7 + "1" + "]" * 7, "x"), "x").values()) == [1]
    with pytest.raises(InputError, match="at most 8 levels"):
        flatten(load_yaml("a: " + "[" * 8 + "1" + "]" * 8, "x"), "x")


@pytest.mark.parametrize("text", [BOMB, MERGES, "a: &a [*a]", "a: &a 1\nb: &a 2", "b: *a"])
def test_yaml_is_written_out(text, recwarn):
    """A few bytes can say 9**8 values, or one inside itself: refused before they are unfolded."""
    with pytest.raises(InputError, match="x: expected values written out, found an anchor"):
        load_yaml(text, "x")
    assert not recwarn.list


def test_flatten_keeps_every_value():
    """Sections and lists by dotted keys; what is empty is there, too."""
    tree = {"a": {"b": 1, 2: [True, None]}, "c": {}, "d": math.pi}
    expected = {"a.b": 1, "a.2.0": True, "a.2.1": None, "c": {}, "d": math.pi}
    assert flatten(tree, "x") == expected
