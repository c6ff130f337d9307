"""What every stage shares: one-line errors with exit status 2, and atomic writes."""

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TextIO, cast


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

    Raises InputError where the disk refuses (full, read-only).
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp's own is 0600
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
