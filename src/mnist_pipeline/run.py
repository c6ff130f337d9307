"""Run dvc repro; if MNIST cannot be had, run the same stages on the embedded digits.

PYTHONPATH=src python -m mnist_pipeline run
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mnist_pipeline.download import DataParams, fetch, mirrors
from mnist_pipeline.files import CARD, METRICS, MODEL, PICTURE, InputError, load_params
from mnist_pipeline.metrics import parse_metrics
from mnist_pipeline.mnist import TEST_LABELS

EXPERIMENT = "digits"
DIGITS = Path("build/digits")
# For an experiment, DVC commits changed files, and this user's git may have no name to do so.
IDENTITY = {
    "GIT_COMMITTER_NAME": "mnist_pipeline",
    "GIT_COMMITTER_EMAIL": "mnist_pipeline@localhost",
}


def main() -> None:
    source = load_params("data", DataParams).source
    status = subprocess.run(["dvc", "repro", "download"], check=False).returncode
    if status == 0:
        dvc("repro")
        summarize(Path(), "dvc plots show")
    elif source == "digits" or reachable():
        sys.exit(status)  # dvc has said why
    else:
        print(
            "MNIST cannot be had: running on scikit-learn's 1,797 digits instead, in a temporary"
            " experiment; the next run tries MNIST again."
        )
        run_on_digits()
        summarize(DIGITS, "dvc exp run --temp -S data.source=digits -S train.lr=0.5")


def reachable() -> bool:
    """Whether a mirror has the smallest of MNIST's files."""
    with TemporaryDirectory() as folder:
        try:
            fetch(TEST_LABELS.name, Path(folder), mirrors(), retries=0)  # download has retried
        except InputError:
            return False
    return True


def run_on_digits() -> None:
    """Run the four stages on the digits, outside the checkout; their outputs go to build/."""
    dvc("exp", "run", "--temp", "--force", "--name", EXPERIMENT, "-S", "data.source=digits")
    shutil.rmtree(DIGITS, ignore_errors=True)
    DIGITS.mkdir(parents=True)
    for folder in ("models", "metrics"):
        dvc("get", "--quiet", "--rev", EXPERIMENT, "--out", str(DIGITS / folder), ".", folder)


def dvc(*words: str) -> None:
    """Run dvc; if it fails, exit with its status and no message: dvc has said why."""
    status = subprocess.run(["dvc", *words], env=IDENTITY | os.environ, check=False).returncode
    if status != 0:
        sys.exit(status)


def summarize(folder: Path, command: str) -> None:
    """Print accuracy, where model and picture are, and the command to try next."""
    metrics = parse_metrics((folder / METRICS).read_text())
    print(f"""
accuracy  {metrics.accuracy:.2%} ({metrics.correct:,} of {metrics.total:,} test images)
model     {folder / MODEL}, described in {folder / CARD}
picture   {folder / PICTURE}
next      source .venv/bin/activate && {command}""")
