"""The exported network: where it comes from, and what it says of an image."""

import argparse
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mnist_pipeline.files import ONNX, InputError
from mnist_pipeline.mnist import CLASSES, SIDE
from mnist_pipeline.use import versions


class Network(NamedTuple):
    """A network ready to answer, and which one it is."""

    session: Any  # onnxruntime's, which has no types
    version: str  # v1.0.0, or the name of a file
    commit: str  # empty for a file
    sha256: str  # of the ONNX file

    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float64]:
        """uint8 (28, 28), as MNIST has it → the probability of each digit, (10,)."""
        (log_probabilities,) = self.session.run(None, {"images": image[None]})
        answer: NDArray[np.float64] = np.exp(log_probabilities[0].astype(np.float64))
        return answer


def load(content: bytes, version: str, commit: str = "") -> Network:
    """The network in an ONNX file's bytes; InputError for anything that save did not write."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # one image is too little work for two
    options.log_severity_level = 4  # what it would log is in the error
    try:
        session = onnxruntime.InferenceSession(content, options)
        network = Network(session, version, commit, hashlib.sha256(content).hexdigest())
        answer = network.probabilities(np.zeros((SIDE, SIDE), np.uint8))
    except Exception as error:  # onnxruntime's errors share no other class
        raise InputError(
            f"{version}: expected an ONNX file that save wrote, found: {error}"
        ) from error
    if answer.shape != (CLASSES,) or not abs(answer.sum() - 1) < 1e-3:
        raise InputError(f"{version}: expected probabilities of {CLASSES} digits, found others")
    return network


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --model, and --repository with --stage or --version (with neither: the stage prod)."""
    where = "a git repository to take a version from (by default this checkout)"
    parser.add_argument("--repository", help=where)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", type=Path, help=f"an ONNX file (default: {ONNX})")
    which.add_argument("--stage", help="the version in this stage, such as prod")
    which.add_argument("--version", help="this version, such as v1.0.0")


def choose(options: argparse.Namespace) -> Network:
    """The network that the options name; InputError if it cannot be had.

    If they name a repository alone, sets options.stage to prod, which the app then follows.
    """
    unnamed = options.stage is None and options.version is None
    if unnamed and options.repository is None:
        path = options.model or ONNX
        if not path.exists():
            advice = "make run writes one (of digits: in build/digits)"
            raise InputError(f"{path}: expected an ONNX file that save wrote, found none; {advice}")
        return load(path.read_bytes(), str(path))
    if options.model:
        raise InputError("--repository: expected a version of it, found --model, which is a file")
    if unnamed:
        options.stage = versions.PROD
    repository = options.repository or "."
    found = versions.find(versions.read_tags(repository), options.stage, options.version)
    return load(versions.fetch(repository, found), *found)
