"""The state of a training after each epoch, from which another process goes on.

It lies in DVC's cache, beside files/ and runs/, under a key made of everything that can change
the result: <cache>/resume/<key>/epoch-00005-<digest>.safetensors, 14.4 MB each.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from dvc.config import Config
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_pipeline.model import Net
from mnist_pipeline.stage import InputError, write_atomically

LIMIT = 512 * 2**20  # bytes of all states together; the oldest go first
DVC = Path(".dvc")
NAME = re.compile(r"epoch-(\d{5})-([0-9a-f]{64})\.safetensors")

Row = dict[str, float | None]


class Training(NamedTuple):
    """Everything that an epoch changes. Its random numbers come from (seed, epoch) alone."""

    net: Net
    optimizer: Optimizer
    scheduler: LRScheduler
    history: list[Row]


class Header(BaseModel):
    """What a state holds besides tensors; its file's one metadata key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    epoch: int
    history: list[Row]
    scheduler: dict[str, JsonValue]
    groups: list[dict[str, JsonValue]]  # the optimiser's


class States(NamedTuple):
    """The states of one key; none where there is no folder."""

    key: str
    folder: Path | None

    def load(self, training: Training, epochs: int) -> int:
        """Continue from the last stored epoch up to `epochs`; the number of epochs done.

        A file that is not whole, not of this key or not of this network sets all states of the
        key aside, with one warning, and the training starts afresh. Nothing is unpickled.
        """
        found = {int(match[1]): path for match, path in self._files() if int(match[1]) <= epochs}
        if not found:
            return 0
        path = found[max(found)]
        try:
            header, tensors = read(path, self.key)
            restore(training, header, tensors)
        except (OSError, ValueError) as error:
            for _, each in self._files():
                with suppress(FileNotFoundError):  # another key's trainer may have pruned it
                    each.rename(each.with_suffix(".rejected"))
            what = " ".join(str(error).split())
            print(f"warning: {path}: {what}; set aside, training afresh", file=sys.stderr)
            return 0
        print(f"Resumed after epoch {header.epoch} of {epochs}")
        return header.epoch

    def save(self, training: Training, epoch: int) -> None:
        """Keep the state after an epoch, and of all states no more than LIMIT bytes."""
        if self.folder is None:
            return
        content = state_bytes(training, self.key, epoch)
        name = f"epoch-{epoch:05}-{hashlib.sha256(content).hexdigest()}.safetensors"
        try:
            write_atomically(self.folder / name, content)
        except InputError as error:  # the training itself can go on
            print(f"warning: {error}; epoch {epoch} cannot be resumed from", file=sys.stderr)
        with suppress(FileNotFoundError):  # two trainers prune at once
            prune(self.folder)

    def _files(self) -> list[tuple[re.Match[str], Path]]:
        paths = self.folder.iterdir() if self.folder else ()
        return [(match, path) for path in paths if (match := NAME.fullmatch(path.name))]


@contextmanager
def states(work: dict[str, Any], keep: bool) -> Iterator[States]:
    """The states of this work, locked: another process with the same work waits here.

    `work` is everything that can change the result; the key adds the code that train imports.
    None are found or kept where `keep` is false and outside a DVC repository.
    """
    content = json.dumps(work | {"code": code()}, sort_keys=True).encode()
    key = hashlib.sha256(content).hexdigest()
    if not keep or not DVC.is_dir():
        yield States(key, None)
        return
    folder = cache() / "resume" / key[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print("Waiting for another process that trains the same", flush=True)
            lock.acquire()
    except OSError as error:
        print(f"warning: {folder}: {error.strerror}; nothing can be resumed", file=sys.stderr)
        yield States(key, None)
        return
    try:
        yield States(key, folder)
    finally:
        lock.release()


def cache() -> Path:
    """DVC's cache folder: cache.dir of its configuration, or .dvc/cache."""
    return Path(Config(str(DVC.resolve()))["cache"].get("dir") or DVC / "cache")


def code() -> dict[str, str]:
    """SHA-256 of each module of this package that is loaded, by file name."""
    modules = [sys.modules[name] for name in sorted(sys.modules) if name.startswith(__package__)]
    paths = [Path(module.__file__) for module in modules if module.__file__]
    paths.append(Path(__file__).with_name("train.py"))  # __main__, where it is the stage
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def state_bytes(training: Training, key: str, epoch: int) -> bytes:
    """Weights and optimiser as tensors, everything else as JSON, in safetensors' format."""
    state = training.optimizer.state_dict()
    tensors = {f"net.{name}": tensor for name, tensor in training.net.state_dict().items()}
    for index, values in state["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in values.items()}
    header = Header(
        key=key,
        epoch=epoch,
        history=training.history,
        scheduler=training.scheduler.state_dict(),
        groups=state["param_groups"],
    )
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, {"state": header.model_dump_json()})


def read(path: Path, key: str) -> tuple[Header, dict[str, Tensor]]:
    """What state_bytes wrote; ValueError where it is not whole or not of this key."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() not in path.name:
        raise ValueError("expected the content that its name gives the SHA-256 of, found another")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = Header.model_validate_json((file.metadata() or {})["state"])
    except (safetensors.SafetensorError, KeyError, ValidationError) as error:
        raise ValueError(f"expected a state written by train, found {error}") from error
    if header.key != key:
        raise ValueError(f"expected the key {key}, found {header.key}")
    return header, safetensors.torch.load(content)


def restore(training: Training, header: Header, tensors: dict[str, Tensor]) -> None:
    """Set the training to a state; ValueError, and nothing set, where tensors do not fit."""
    weights = training.net.state_dict()
    expected = {f"net.{name}": tensor.shape for name, tensor in weights.items()}
    state: dict[int, dict[str, Tensor]] = {}
    for index, weight in enumerate(training.net.parameters()):
        shapes = {"step": torch.Size(), "square_avg": weight.shape, "acc_delta": weight.shape}
        expected |= {f"optimizer.{index}.{name}": shape for name, shape in shapes.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        wrong = sorted(name for name, _ in found.items() ^ expected.items())
        raise ValueError(f"expected the network's and Adadelta's tensors, found another {wrong[0]}")
    for index, weight in enumerate(training.net.parameters()):
        values = {
            name: tensors[f"optimizer.{index}.{name}"] for name in ("square_avg", "acc_delta")
        }
        state[index] = {
            name: torch.empty_like(weight).copy_(value) for name, value in values.items()
        }
        state[index]["step"] = tensors[f"optimizer.{index}.step"]
    training.net.load_state_dict({name: tensors[f"net.{name}"] for name in weights})
    training.optimizer.load_state_dict({"state": state, "param_groups": header.groups})
    training.scheduler.load_state_dict(header.scheduler)
    training.history[:] = header.history


def prune(own: Path) -> None:
    """Delete the oldest states beyond LIMIT bytes, and the folders of other keys left empty."""
    files = [(path.stat().st_mtime, path) for path in own.parent.glob("*/*epoch-*")]
    size = 0
    for _, path in sorted(files, reverse=True):
        size += path.stat().st_size
        if size > LIMIT:
            path.unlink(missing_ok=True)
    for folder in own.parent.iterdir():
        if folder != own and not any(folder.glob("epoch-*")):
            with suppress(Timeout), FileLock(folder / "lock", blocking=False):
                shutil.rmtree(folder)
