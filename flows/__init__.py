"""The unattended: order, retries, schedule, gate, publication, search."""

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else an import prints a traceback: python -m

from mnist_pipeline.__main__ import heed_interrupts, one_line_errors


@contextmanager
def command() -> Iterator[None]:
    """What `python -m flows.NAME` runs: errors end in one line, an interrupt in one word."""
    heed_interrupts()
    with one_line_errors():
        yield


def take_no_words(name: str, description: str | None) -> None:
    """Print the description of a module that takes no words if --help is asked for, and exit.

    Any other word is refused.
    """
    argparse.ArgumentParser(
        prog=f"python -m flows.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
