"""Stage save: the model for others to load, and a card that says what it is.

PYTHONPATH=src python -m mnist_pipeline.save
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mnist_pipeline.mnist_files import SHA256
from mnist_pipeline.model import WEIGHTS, Net, Provenance, read_weights
from mnist_pipeline.params import Params, load
from mnist_pipeline.stage import InputError, run, write_atomically

METRICS = Path("metrics/metrics.json")
ENVIRONMENT = Path("metrics/environment.json")
MODEL = Path("models/mnist_cnn.pt")
CARD = Path("models/model_card.md")


class SaveParams(Params):
    min_accuracy: float = Field(
        ge=0, le=1, description="a model with less test accuracy is not exported"
    )


class Metrics(BaseModel):
    """What save must know of metrics.json; the rest it only copies to the card."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    dry_run: bool
    accuracy: float = Field(ge=0, le=1)
    loss: float
    correct: int
    total: int


def main() -> None:
    params = load("save", SaveParams)
    net, provenance = read_weights(WEIGHTS)  # refuses numbers that are not finite
    metrics = read_metrics(METRICS)
    environment = read_json(ENVIRONMENT)
    check_accuracy(metrics, params.min_accuracy)
    write_atomically(MODEL, state_dict_bytes(net))
    write_atomically(CARD, card(provenance, metrics, environment).encode())
    print(f"{MODEL}: {metrics.correct}/{metrics.total} test images right; {CARD} says the rest")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; InputError where the file holds anything else."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, found: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_metrics(path: Path) -> Metrics:
    """metrics.json, checked; InputError where a number is missing or not finite."""
    try:
        return Metrics.model_validate(read_json(path))
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise InputError(f"{path}: {key}: {fault['msg']}, found {fault['input']!r}") from error


def check_accuracy(metrics: Metrics, floor: float) -> None:
    """Raises InputError below the floor; a dry run's accuracy means nothing and passes."""
    if metrics.accuracy < floor and not metrics.dry_run:
        raise InputError(
            f"{METRICS}: accuracy: expected at least save.min_accuracy = {floor},"
            f" found {metrics.accuracy}; nothing is exported"
        )


def state_dict_bytes(net: Net) -> bytes:
    """A plain state_dict, for torch.load(weights_only=True) and the classic program's Net."""
    content = io.BytesIO()  # not a file: torch.save writes the file's name into the bytes
    torch.save({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, content)
    return content.getvalue()


def card(provenance: Provenance, metrics: Metrics, environment: dict[str, JsonValue]) -> str:
    """The model card, in Markdown."""
    dry = "\n> **A dry run:** trained on one batch to try the pipeline. Not a usable model.\n"
    official = all(SHA256.get(name) == digest for name, digest in provenance.data.items())
    data = "MNIST's training images" if official else "files other than MNIST's published ones"
    return f"""# mnist_cnn.pt
{dry if metrics.dry_run else ""}
A network of two convolutions and two linear layers (1,199,882 parameters) that reads
handwritten digits: 28 × 28 grey values in, log-probabilities of 0-9 out.

```python
net.load_state_dict(torch.load("mnist_cnn.pt", weights_only=True))
```

Input: float32 (N, 1, 28, 28), bytes divided by 255, less 0.1307, divided by 0.3081; white
ink on black, as in MNIST. Made to learn from, not to read cheques: it answers 0-9 to any picture.

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


if __name__ == "__main__":
    run(main)
