"""What every stage shares: one-line errors with exit status 2, and atomic writes."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class InputError(Exception):
    """Bad input. The message names the file or key, what was expected and what was found."""


def run(main: Callable[[], None]) -> None:
    """Run a stage; bad input ends it with one line on stderr and exit status 2."""
    cast(TextIO, sys.stdout).reconfigure(line_buffering=True)  # type: ignore[attr-defined]
    try:
        main()
    except InputError as error:
        message = str(error)
    except OSError as error:  # a missing file, a read-only folder, a full disk
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    else:
        return
    print("error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: its old content stays until the new one is on disk.

    One writer at a time. Raises InputError where the disk refuses (full, read-only).
    """
    temporary = path.with_name(f".{path.name}.tmp")  # after a kill, the next write takes it over
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def end_with_parent() -> None:
    """On Linux, have the kernel end this process when the one that started it is gone.

    For a stage that DVC starts: killing dvc alone would leave it running. Source: prctl(2).
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # A stage shares dvc's process group. A parent from another one has adopted this process:
    # dvc was gone before the line above.
    if os.getpgid(os.getppid()) != os.getpgrp():
        os.kill(os.getpid(), signal.SIGKILL)
