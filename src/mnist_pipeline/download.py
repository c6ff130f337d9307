"""Stage download: MNIST's four files, from the first mirror that has the true bytes.

PYTHONPATH=src python -m mnist_pipeline download
"""

import logging
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

import pooch
import requests
from pydantic import Field

from mnist_pipeline.files import InputError, Record, load_params, write_atomically
from mnist_pipeline.mnist import RAW, SHA256

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
TIMEOUT = (5.0, 30.0)  # seconds: to connect, between two reads
RETRIES = 2  # for each mirror and file, after 1 s and then 2 s


class DataParams(Record):
    source: Literal["mnist", "digits"] = Field(
        description="MNIST, or scikit-learn's 1,797 scanned digits (offline)"
    )


def main() -> None:
    params = load_params("data", DataParams)
    if params.source == "digits":
        from mnist_pipeline import digits  # noqa: PLC0415 (scikit-learn's import takes 2 s)

        for name, content in digits.idx_files().items():
            write_atomically(RAW / name, content)
    else:
        for name in SHA256:
            fetch(name, RAW, mirrors())


def mirrors() -> list[str]:
    """Addresses and folders to try, in order: MNIST_MIRROR first, if it is set."""
    own = os.environ.get("MNIST_MIRROR")
    return [own, *MIRRORS] if own else [*MIRRORS]


def fetch(name: str, folder: Path, sources: list[str], retries: int = RETRIES) -> None:
    """Put one of MNIST's files into folder; a good one already there causes no request.

    The bytes go to a temporary file of this process's own and take their place by a rename,
    after their SHA-256 was found right. Raises InputError when no source has them, and OSError
    when the folder cannot be written to.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    faults = []
    for source in sources:
        shown = re.sub("//[^/]*@", "//", source)  # no password in a log
        web = source.startswith(("http://", "https://"))
        if not web and not os.access(Path(source) / name, os.R_OK):
            faults.append(f"{shown} (no such file, or not readable)")
            continue
        try:
            pooch.create(
                path=folder,
                base_url=source,
                registry={name: f"sha256:{SHA256[name]}"},
                retry_if_failed=retries if web else 0,
            ).fetch(name, downloader=_from_web() if web else _from_folder)
            return
        except (requests.RequestException, ValueError) as error:
            faults.append(f"{shown} ({_reason(error)})")
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise OSError(error.errno, what, str(folder / name)) from error
    raise InputError(f"{name}: expected MNIST's file at a mirror, found none: {'; '.join(faults)}")


def _from_web() -> pooch.HTTPDownloader:
    return pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(),
        timeout=TIMEOUT,
        headers={"Accept-Encoding": "identity"},  # or a server may unpack the .gz on the way
    )


def _from_folder(url: str, output_file: str, _: pooch.Pooch) -> None:
    shutil.copyfile(url, output_file)


def _reason(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"status {error.response.status_code}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "timed out"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "connection broke off"
    return "no connection" if isinstance(error, requests.RequestException) else "wrong bytes"
