"""The unattended: order, retries, schedule, gate, publication, search."""

import argparse


def take_no_words(name: str, description: str | None) -> None:
    """Print the description of a module that takes no words if --help is asked for, and exit.

    Any other word is refused.
    """
    argparse.ArgumentParser(
        prog=f"python -m flows.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
