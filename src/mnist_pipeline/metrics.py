"""The schema of metrics/metrics.json, which evaluate writes and every reader relies on."""

from pydantic import Field

from mnist_pipeline.files import METRICS, Record, parse_json, validate


class Metrics(Record, extra="allow"):
    """A model's results on the test images; further numbers may stand beside these."""

    accuracy: float = Field(ge=0, le=1)
    loss: float
    correct: int = Field(ge=0)
    total: int = Field(ge=1)
    recall: dict[str, float]  # by class, named as in errors.csv, in order
    dry_run: bool


def parse_metrics(text: str, name: str = str(METRICS)) -> Metrics:
    """metrics.json; InputError if a number is missing, mistyped or not finite."""
    return validate(Metrics, parse_json(text, name), name)
