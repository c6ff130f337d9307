"""Going on from a stored epoch: the same bytes as never having stopped."""

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import set_params

from mnist_pipeline import resume, train
from mnist_pipeline.model import WEIGHTS
from mnist_pipeline.stage import write_atomically

WORK = {"data": {"a.gz": "00"}, "parameters": {"lr": 1.0}, "environment": {"threads": 2}}


@pytest.fixture
def repository(workspace):
    """A stage's working folder in a DVC repository; short epochs."""
    (workspace / ".dvc").mkdir()
    set_params(train={"validation_fraction": 0.8, "batch_size": 16})
    return workspace


@pytest.fixture
def outcome(repository, capsys):
    """Train so many epochs: weights, history, and the epochs that were worked on."""

    def outcome(epochs: int, **parameters) -> tuple[str, str, list[int], str]:
        set_params(train={"epochs": epochs} | parameters)
        train.main()
        out, err = capsys.readouterr()
        worked = {int(line.split()[2]) for line in out.splitlines() if "Train Epoch:" in line}
        # Of the weights' file only the tensors: its provenance names the number of epochs.
        tensors = safetensors.torch.load_file(WEIGHTS)
        digest = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()
        return digest, train.HISTORY.read_text(), sorted(worked), err

    return outcome


def stored(kind: str = "epoch-*.safetensors") -> list[Path]:
    """The states in the working folder's cache."""
    return sorted(Path(".dvc/cache/resume").glob(f"*/{kind}"))


def test_more_epochs_go_on_and_fewer_are_there(outcome):
    """2 → 4 trains two epochs, 4 → 3 none; the bytes are those of fresh runs."""
    assert outcome(2)[2] == [1, 2]
    extended = outcome(4)
    assert extended[2] == [3, 4]
    lowered = outcome(3)
    assert lowered[2] == []
    for path in stored():
        path.unlink()
    assert outcome(3)[:2] == lowered[:2]
    for path in stored():
        path.unlink()
    fresh = outcome(4)
    assert fresh[2] == [1, 2, 3, 4]
    assert fresh[:2] == extended[:2]


def test_other_work_starts_afresh(outcome):
    """Another learning rate, another seed: nothing of the first training is used."""
    outcome(1)
    assert outcome(1, lr=0.5)[2] == [1]
    assert outcome(1, lr=1.0, seed=2)[2] == [1]
    assert outcome(1, seed=1)[2] == []
    assert len(stored()) == 3


def test_dry_run_keeps_and_finds_nothing(outcome):
    """A dry run is there to be watched: it always does its one step."""
    assert outcome(1, dry_run=True)[2] == [1]
    assert outcome(1, dry_run=True)[2] == [1]
    assert stored() == []


def test_key_holds_all_that_can_change_the_result(repository, monkeypatch, tmp_path):
    """Data, parameters, environment and code: a change in any is another key."""

    def key(work: dict) -> str:
        with resume.states(work, keep=False) as states:
            return states.key

    keys = [key(WORK), key(WORK)]
    assert keys[0] == keys[1]
    keys += [key(WORK | {section: {"x": 1}}) for section in WORK]
    changed = tmp_path / "changed.py"
    changed.write_text("# another line")
    monkeypatch.setattr(sys.modules["mnist_pipeline.model"], "__file__", str(changed))
    keys.append(key(WORK))
    assert len(set(keys)) == 5


def test_epochs_are_not_part_of_the_work(repository):
    """The number of epochs is left out, everything else of the train section is in."""
    params = train.load("train", train.TrainParams)
    parameters = train.work(train.provenance(params), {})["parameters"]
    assert parameters.keys() == train.TrainParams.model_fields.keys() - {"epochs"}


class Exploit:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return (os.mkdir, ("exploited",))


def renamed(path: Path, content: bytes) -> None:
    """Put other content in a state's place, under a name that fits it."""
    name = f"epoch-00002-{hashlib.sha256(content).hexdigest()}.safetensors"
    path.unlink()
    path.with_name(name).write_bytes(content)


def foreign(path: Path) -> None:
    """A state of another key."""
    tensors, header = safetensors.torch.load_file(path), header_of(path)
    other = header.model_copy(update={"key": "other"}).model_dump_json()
    renamed(path, safetensors.torch.save(tensors, {"state": other}))


def misfit(path: Path) -> None:
    """A state with a tensor of another shape."""
    tensors, header = safetensors.torch.load_file(path), header_of(path)
    tensors["optimizer.0.square_avg"] = torch.zeros(3)
    renamed(path, safetensors.torch.save(tensors, {"state": header.model_dump_json()}))


def header_of(path: Path) -> resume.Header:
    """What a state's file says besides tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        return resume.Header.model_validate_json(file.metadata()["state"])


def flipped(path: Path) -> None:
    """One bit of a weight turned."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


BAD = {
    "truncated": lambda path: os.truncate(path, 1000),
    "empty": lambda path: os.truncate(path, 0),
    "flipped": flipped,
    "foreign": foreign,
    "misfit": misfit,
    "pickle": lambda path: renamed(path, pickle.dumps(Exploit())),
    "text": lambda path: renamed(path, b"hello"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_state_is_set_aside_and_training_starts_afresh(outcome, kind):
    """One warning that names the file and says what was found; the result is the same."""
    good = outcome(2)
    BAD[kind](stored()[-1])
    again = outcome(2)
    assert again[2] == [1, 2]
    assert again[:2] == good[:2]
    lines = again[3].splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert "/epoch-00002-" in lines[0]
    assert "expected" in lines[0]
    assert "found" in lines[0]
    assert len(stored("*.rejected")) == 2
    assert len(stored()) == 2
    assert not Path("exploited").exists()


def test_size_is_bounded_and_the_oldest_go_first(repository, monkeypatch):
    """No more than LIMIT bytes; a key with no state left loses its folder."""
    monkeypatch.setattr(resume, "LIMIT", 250)
    root = repository / ".dvc/cache/resume"
    for age, name in enumerate(("new/epoch-3", "new/epoch-2", "new/epoch-1", "old/epoch-9")):
        write_atomically(root / name, bytes(100))
        os.utime(root / name, (1000 - age, 1000 - age))
    resume.prune(root / "new")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "new",
        "new/epoch-2",
        "new/epoch-3",
    ]


def test_folder_of_a_running_training_stays(repository):
    """Another trainer in its first epoch has no state yet, but the lock."""
    with resume.states(WORK, keep=True) as states:
        resume.prune(states.folder.with_name("other"))
        assert states.folder.is_dir()


def test_second_process_with_the_same_work_waits(repository):
    """It says that it waits, and goes on when the first one has ended."""
    code = (
        f"from mnist_pipeline import resume\nwith resume.states({WORK!r}, keep=True) as states:\n"
        "    print('in', states.key, flush=True)"
    )
    # The same modules in both, so the same key.
    inner = [sys.executable, "-c", code]
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        first = holder.stdout.readline().split()
        second = subprocess.Popen(inner, stdout=subprocess.PIPE, text=True)
        with second:
            waiting = second.stdout.readline()
            assert second.poll() is None
            holder.communicate("\n")
            assert waiting == "Waiting for another process that trains the same\n"
            assert second.stdout.readline().split() == first


def test_states_lie_beside_a_shared_cache(repository, tmp_path_factory):
    """Where DVC's cache.dir points elsewhere, another clone finds them there."""
    shared = tmp_path_factory.mktemp("shared")
    (repository / ".dvc/config.local").write_text(f"[cache]\n    dir = {shared}\n")
    with resume.states(WORK, keep=True) as states:
        assert states.folder == shared / "resume" / states.key[:32]


def test_no_room_for_states_is_a_warning(outcome):
    """The training ends well; it only could not have been resumed."""
    Path(".dvc/cache").write_text("in the way")
    digest, _, worked, err = outcome(1)
    assert digest
    assert worked == [1]
    assert err.count("warning: ") == len(err.splitlines()) == 1
