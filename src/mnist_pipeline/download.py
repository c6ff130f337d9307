"""Stage download: the four MNIST files, from the first mirror that hands out the true bytes.

PYTHONPATH=src python -m mnist_pipeline.download
"""

import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from pydantic import Field

from mnist_pipeline.mnist_files import RAW, SHA256
from mnist_pipeline.params import Params, load
from mnist_pipeline.stage import InputError, run, write_atomically

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = (5.0, 30.0)  # seconds: to connect, between two reads
RETRIES = 2  # for each mirror and file, after 1 s and then 2 s


class _UnreadableError(Exception):
    """A file that cannot be read from a mirror that is a folder."""


class DataParams(Params):
    source: Literal["mnist", "digits"] = Field(
        description="MNIST, or scikit-learn's 1,797 scanned digits (offline)"
    )


def main() -> None:
    params = load("data", DataParams)
    if params.source == "digits":
        from mnist_pipeline import digits  # noqa: PLC0415 (scikit-learn's import takes 2 s)

        for name, content in digits.idx_files().items():
            write_atomically(RAW / name, content)
    else:
        for name in SHA256:
            fetch(name, RAW, mirrors())


def mirrors() -> list[str]:
    """Addresses and folders to try, in order: MNIST_MIRROR first, where it is set."""
    own = os.environ.get("MNIST_MIRROR")
    return [*([own] if own else []), *MIRRORS]


def fetch(name: str, folder: Path, sources: list[str], retries: int = RETRIES) -> None:
    """Put one of MNIST's files into folder; a good one already there causes no request.

    The bytes go to a temporary file of this process's own and take their place by a rename,
    after their SHA-256 was found right. Raises InputError when no source has them.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    faults = []
    for source in sources:
        try:
            _fetch_from(source, name, folder, retries)
            return
        except (requests.RequestException, _UnreadableError, ValueError) as error:
            faults.append(f"{source} ({_reason(error)})")
        except OSError as error:
            what = error.strerror or error
            raise InputError(f"{folder / name}: cannot be written: {what}") from error
    raise InputError(f"{name}: expected MNIST's file at a mirror, found none: {'; '.join(faults)}")


def _fetch_from(source: str, name: str, folder: Path, retries: int) -> None:
    web = source.startswith(("http://", "https://"))
    pooch.create(
        path=folder,
        base_url=source,
        registry={name: f"sha256:{SHA256[name]}"},
        retry_if_failed=retries if web else 0,
    ).fetch(name, downloader=_from_web() if web else _from_folder)


def _from_web() -> pooch.HTTPDownloader:
    return pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=TIMEOUT,
        headers={"Accept-Encoding": "identity"},  # or a server may unpack the .gz on the way
    )


def _from_folder(url: str, output_file: str, _: Any) -> None:
    try:
        content = Path(url).read_bytes()
    except OSError as error:
        raise _UnreadableError(error.strerror) from error
    Path(output_file).write_bytes(content)


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, _UnreadableError):
        return str(error)
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "timed out"
    if isinstance(error, requests.RequestException):
        broken = isinstance(error, requests.exceptions.ChunkedEncodingError)
        return "connection broke off" if broken else "no connection"
    return "wrong bytes"


if __name__ == "__main__":
    run(main)
