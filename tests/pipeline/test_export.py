"""The ONNX file: the same answers as torch's, from the same bytes everywhere."""

import os

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.download import fetch
from mnist_pipeline.export import onnx_bytes
from mnist_pipeline.files import ONNX, WEIGHTS
from mnist_pipeline.mnist import SHA256, TEST_IMAGES, TEST_LABELS
from mnist_pipeline.model import Net, normalize, read_weights


@pytest.fixture(scope="module")
def net():
    """A network as sure of itself as a trained one."""
    torch.manual_seed(3)
    net = Net().eval()
    with torch.no_grad():
        net.fc2.weight *= 100
    return net


def compare(net: Net, images: NDArray[np.uint8]) -> None:
    """torch and onnxruntime agree on each log-probability, and on each answer, for any N."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more would wait for each other
    session = onnxruntime.InferenceSession(onnx_bytes(net), options)
    assert session.get_inputs()[0].shape == ["N", 28, 28]
    assert session.get_outputs()[0].shape == ["N", 10]
    for part in torch.from_numpy(images).split(500):
        with torch.no_grad():
            expected = net(normalize(part)).numpy()
        (found,) = session.run(None, {"images": part.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_same_answers_on_the_digits(net, workspace):
    """From the raw bytes: the normalisation is inside."""
    compare(net, read_pairs(TEST_IMAGES, TEST_LABELS)[0])


@pytest.mark.skipif("MNIST_MIRROR" not in os.environ, reason="MNIST_MIRROR names no mirror")
def test_same_answers_on_mnist(net, tmp_path):
    """On all 10,000 test images, from a mirror that has all four files with their known hashes."""
    for name in SHA256:
        fetch(name, tmp_path, [os.environ["MNIST_MIRROR"]])
    images, _ = read_pairs(tmp_path / TEST_IMAGES.name, tmp_path / TEST_LABELS.name)
    assert len(images) == 10_000
    compare(net, images)


def test_bytes_depend_on_the_weights_alone(net, undisturbed):
    """Neither on the process, nor on the folder; and they name no path."""
    stored = (undisturbed / ONNX).read_bytes()
    assert onnx_bytes(read_weights(undisturbed / WEIGHTS)[0]) == stored
    assert str(undisturbed).encode() not in stored
    assert onnx_bytes(net) != stored
