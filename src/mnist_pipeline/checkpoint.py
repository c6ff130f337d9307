"""The state of a training after its last finished epoch, from which another process goes on.

It lies in DVC's cache, beside files/ and runs/: <cache>/resume/<key>-<epoch>-<SHA-256>.pt. The key
covers everything that can change the result, so a state with the same key fits.
"""

import hashlib
import io
import json
import pickle
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch.serialization import get_unsafe_globals_in_checkpoint

from mnist_pipeline.files import InputError, dvc_cache, write_atomically

KEPT = 30  # states of all trainings together, 14.4 MB each; the oldest go first


class Checkpoint:
    """Keeps the state of one training. Only one process at a time may work with it."""

    def __init__(self, work: dict[str, Any]) -> None:
        """`work` is everything that decides the result except the code, which is added here."""
        content = json.dumps(work | {"code": code_hashes()}, sort_keys=True).encode()
        self.key = hashlib.sha256(content).hexdigest()[:32]
        self.folder = dvc_cache() / "resume"

    def lock(self, wait: bool) -> AbstractContextManager[object]:
        """Keep others from the same training. If one is at it, wait for it or raise InputError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / f"{self.key}.lock")
        try:
            return lock.acquire(blocking=False)
        except Timeout as error:
            if not wait:  # the other processes of this training would soon take this one for dead
                raise InputError("train: another training does the same: wait for it") from error
            print("Waiting for another process that trains the same", flush=True)
            return lock.acquire()

    def load(self, last_epoch: int) -> dict[str, Any] | None:
        """The newest state that is not beyond `last_epoch`; None if there is none.

        A damaged state is skipped, with a warning.
        """
        for path in sorted(self._states(), reverse=True):
            _, epoch, digest = path.stem.split("-")
            if int(epoch) > last_epoch:
                continue
            if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                return state
            print(f"warning: {path}: damaged, therefore not used", file=sys.stderr)
        return None

    def save(self, state: dict[str, Any], epoch: int) -> None:
        """Keep the state after an epoch, in place of the one before it.

        Raises InputError for a state that `load` could not read.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        try:
            torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            found = get_unsafe_globals_in_checkpoint(io.BytesIO(content))
            what = "expected tensors, and Python's own numbers, texts, lists and dictionaries"
            what += f", found {', '.join(found) or error}"
            raise InputError(f"train: Training.state_dict: {what}") from error
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{self.key}-{epoch:05}-{digest}.pt"
        write_atomically(path, content)
        for old in self._states():
            if old != path:
                old.unlink(missing_ok=True)  # another training may have deleted it
        with suppress(FileNotFoundError):
            by_age = sorted(self.folder.glob("*.pt*"), key=lambda path: path.stat().st_mtime)
            for oldest in by_age[:-KEPT]:
                oldest.unlink()

    def _states(self) -> list[Path]:
        return list(self.folder.glob(f"{self.key}-*.pt"))


def code_hashes() -> dict[str, str]:
    """SHA-256 of each loaded module of this package, by file; __main__.py is one of them."""
    package = Path(__file__).parent
    files = {Path(getattr(module, "__file__", None) or "") for module in [*sys.modules.values()]}
    own = [path for path in files if path.is_relative_to(package)]
    return {
        str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in own
    }
