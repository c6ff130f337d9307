"""Stage save: the model for others to load, and a card that says what it is.

PYTHONPATH=src python -m mnist_pipeline save
"""

import io
from typing import Any

import torch
from pydantic import Field

from mnist_pipeline import files
from mnist_pipeline.export import onnx_bytes
from mnist_pipeline.files import InputError, Record, load_params, read_text, write_atomically
from mnist_pipeline.metrics import Metrics, parse_metrics
from mnist_pipeline.mnist import DEVIATION, MEAN, SHA256
from mnist_pipeline.model import Net, Provenance, read_weights


class SaveParams(Record):
    min_accuracy: float = Field(
        ge=0, le=1, description="a model with less test accuracy is not exported"
    )


def main() -> None:
    floor = load_params("save", SaveParams).min_accuracy
    net, provenance = read_weights(files.WEIGHTS)
    metrics = parse_metrics(read_text(files.METRICS))
    environment = files.parse_json(read_text(files.ENVIRONMENT), str(files.ENVIRONMENT))
    check_accuracy(metrics, floor)
    write_atomically(files.MODEL, state_dict_bytes(net))
    write_atomically(files.ONNX, onnx_bytes(net))
    write_atomically(files.CARD, card(provenance, metrics, environment).encode())
    right = f"{metrics.correct}/{metrics.total} test images right"
    print(f"{files.MODEL}, {files.ONNX}: {right}; {files.CARD} describes them")


def check_accuracy(metrics: Metrics, floor: float) -> None:
    """Raises InputError below the floor; a dry run's accuracy means nothing and passes."""
    if metrics.accuracy < floor and not metrics.dry_run:
        raise InputError(
            f"{files.METRICS}: accuracy: expected at least save.min_accuracy = {floor},"
            f" found {metrics.accuracy}; nothing is exported"
        )


def state_dict_bytes(net: Net) -> bytes:
    """A plain state_dict, for torch.load(weights_only=True) and the classic program's Net."""
    content = io.BytesIO()  # not a file: torch.save writes the file's name into the bytes
    torch.save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, content)
    return content.getvalue()


def card(provenance: Provenance, metrics: Metrics, environment: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    dry = "\n> **A dry run:** trained on one batch to try the pipeline. Not a usable model.\n"
    new = [name for name in provenance.data if name.startswith(str(files.NEW_TRAIN))]
    official = all(
        SHA256.get(name) == provenance.data[name] for name in provenance.data if name not in new
    )
    data = "MNIST's training images" if official else "files other than MNIST's published ones"
    data += "".join(f", and {name}" for name in new)
    return f"""# mnist_cnn.pt, mnist_cnn.onnx
{dry if metrics.dry_run else ""}
{Net.__doc__} It reads handwritten digits: 28 × 28 grey
values in, log-probabilities of 0-9 out.

```python
net.load_state_dict(torch.load("mnist_cnn.pt", weights_only=True))
```

Input of `mnist_cnn.pt`: float32 (N, 1, 28, 28), bytes divided by 255, less {MEAN}, divided by
{DEVIATION}. Input of `mnist_cnn.onnx`, for any runtime of ONNX: "images", the bytes themselves,
uint8 (N, 28, 28). White ink on black, as in MNIST. Made to learn from, not to read cheques: it
answers 0-9 to any picture.

## Data
Trained on {data}:

{table("file", "SHA-256", provenance.data)}

Tested on {metrics.total:,} images that training never saw.

## Metrics
{table("on the test images", "value", metrics.model_dump(exclude={"dry_run"}))}

## Parameters
{table("train", "value", provenance.parameters)}

## Environment
{table("trained with", "value", environment)}
"""


def table(left: str, right: str, rows: dict[str, Any]) -> str:
    """Rows of name and value as a Markdown table; a nested name gets a dot."""
    lines = [f"| {left} | {right} |", "|---|---|"]
    for name, value in rows.items():
        if isinstance(value, dict):
            lines += [f"| {name}.{inner} | {number} |" for inner, number in value.items()]
        else:
            lines.append(f"| {name} | {value} |")
    return "\n".join(lines)
