"""Stage evaluate: the trained network on the test images.

PYTHONPATH=src python -m mnist_pipeline evaluate
"""

import io
import json
import math
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score
from torch import Tensor

from mnist_pipeline import files, runtime
from mnist_pipeline.arithmetic import RuntimeParams
from mnist_pipeline.dataset import read_pairs
from mnist_pipeline.files import InputError, Record, load_params, write_atomically
from mnist_pipeline.mnist import CLASSES, TEST_IMAGES, TEST_LABELS
from mnist_pipeline.model import predict, read_weights
from mnist_pipeline.new_images import read_new
from mnist_pipeline.parallel import MachineParams, Workers

ECE_BINS = 15
SHOWN, COLUMNS = 32, 8  # in the picture


class EvaluateParams(Record):
    batch_size: int = Field(ge=1, le=10_000, description="test images that a thread takes at once")


def main() -> None:
    params = load_params("evaluate", EvaluateParams)
    device = runtime.start(load_params("runtime", RuntimeParams))
    workers = Workers(load_params("machine", MachineParams).threads_on(device))
    images, labels = map(torch.from_numpy, read_pairs(TEST_IMAGES, TEST_LABELS))
    names, *new = read_new(files.NEW_TEST)
    new_images, new_labels = map(torch.from_numpy, new)
    net, provenance = read_weights(files.WEIGHTS)
    probabilities, new_probabilities = (
        predict(net.to(device), some.to(device), params.batch_size, workers).double().softmax(1)
        for some in (images, new_images)
    )
    if not torch.cat([probabilities, new_probabilities]).isfinite().all():
        raise InputError(f"{files.WEIGHTS}: expected finite answers, found NaN: the loss diverged")
    metrics = score(probabilities.numpy(), labels.numpy()) | {"dry_run": provenance.dry_run}
    errors = misclassified(probabilities, labels)
    new_answers = answers(new_probabilities, new_labels)
    new_answers.insert(0, "name", names)
    if names:
        right = int((new_answers["label"] == new_answers["predicted"]).sum())
        metrics["new"] = {"correct": right, "total": len(names)}

    write_atomically(files.METRICS, (json.dumps(metrics, indent=2) + "\n").encode())
    write_atomically(files.ERRORS, errors.to_csv(index=False, float_format="%.6f").encode())
    write_atomically(files.NEW, new_answers.to_csv(index=False, float_format="%.6f").encode())
    write_atomically(files.PICTURE, draw(images, errors))
    correct, total = metrics["correct"], metrics["total"]
    print(f"Test set: Average loss: {metrics['loss']:.4f}, Accuracy: {correct}/{total}")


def score(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, object]:
    """Metrics of class probabilities (N, 10) against labels (N,), rounded to six digits."""
    predicted = probabilities.argmax(1)
    digits = list(range(CLASSES))
    recall = recall_score(labels, predicted, labels=digits, average=None, zero_division=0)
    return {
        "accuracy": round(float(accuracy_score(labels, predicted)), 6),
        "loss": round(float(log_loss(labels, probabilities, labels=digits)), 6),
        "correct": int((predicted == labels).sum()),
        "total": len(labels),
        "macro_f1": round(float(f1_score(labels, predicted, average="macro")), 6),
        "ece": round(expected_calibration_error(probabilities, labels), 6),
        "recall": {str(digit): round(float(recall[digit]), 6) for digit in digits},
    }


def expected_calibration_error(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins, 0 (best) to 1.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    # A bin's gap, weighted by its share of the images: |sum of confidences - correct ones| / N
    gaps = np.bincount(bins, confidence - correct, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def answers(probabilities: Tensor, labels: Tensor) -> pd.DataFrame:
    """One row for each image: label, predicted, confidence."""
    confidence, predicted = probabilities.max(1)
    return pd.DataFrame({"label": labels, "predicted": predicted, "confidence": confidence})


def misclassified(probabilities: Tensor, labels: Tensor) -> pd.DataFrame:
    """One row for each wrong answer: index, label, predicted, confidence; by index."""
    everything = answers(probabilities, labels).reset_index()
    return everything[everything["label"] != everything["predicted"]]


def draw(images: Tensor, errors: pd.DataFrame) -> bytes:
    """A PNG of the errors made with the greatest confidence, each with truth and prediction."""
    mpl.rcdefaults()  # whatever style this user's matplotlibrc asks for
    worst = errors.sort_values(["confidence", "index"], ascending=[False, True]).head(SHOWN)
    rows = max(1, math.ceil(len(worst) / COLUMNS))
    figure = Figure(figsize=(1.3 * COLUMNS, 1.7 * rows + 0.6), dpi=110)
    figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.1))  # inches
    some = f"The {len(worst)} most confident of " if len(worst) < len(errors) else ""
    figure.suptitle(f"{some}{len(errors)} errors on {len(images):,} test images", fontsize=14)
    no_ticks: dict[str, Any] = {"xticks": [], "yticks": []}  # hidden ones take time, too
    axes = figure.subplots(rows, COLUMNS, squeeze=False, subplot_kw=no_ticks).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, (_, error) in zip(axes, worst.iterrows(), strict=False):
        axis.imshow(images[int(error["index"])].numpy(), cmap="gray_r", vmin=0, vmax=255)
        truth = f"{error['label']:.0f} read as {error['predicted']:.0f}"
        axis.set_title(f"{truth}\n{error['confidence']:.1%} sure", fontsize=9.5)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})  # it names the version
    return content.getvalue()
