"""The unattended: order, retries, schedule, gate, publication, search."""

import argparse
import gc
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.argv[0] == "-m":  # python -m flows.NAME: until its imports are done
    gc.disable()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else an import prints a traceback

from mnist_pipeline.__main__ import end_imports, one_line_errors


@contextmanager
def command(description: str = "") -> Iterator[None]:
    """What `python -m flows.NAME` runs: errors end in one line, an interrupt in one word.

    A module that takes no words gives its description: --help prints it, other words are refused.
    """
    end_imports()
    with one_line_errors():
        if description:
            prog = f"python -m flows.{Path(sys.argv[0]).stem}"
            plain = argparse.RawDescriptionHelpFormatter
            argparse.ArgumentParser(prog, None, description, formatter_class=plain).parse_args()
        yield
