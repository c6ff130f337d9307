"""The network, and its weights as a safetensors file."""

import hashlib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from mnist_pipeline import sparse_gradients
from mnist_pipeline.files import NEW_TRAIN, InputError, Record, write_atomically
from mnist_pipeline.mnist import CLASSES, DEVIATION, MEAN, TRAIN_IMAGES, TRAIN_LABELS
from mnist_pipeline.parallel import Workers


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, 28, 28) → float32 (N, 1, 28, 28) with mean 0 and deviation 1 on MNIST.

    The bits of torchvision's transforms ToDtype and Normalize, whose import takes 2 s.
    """
    return images.unsqueeze(1).float().mul_(1 / 255).sub_(MEAN).div_(DEVIATION)


class Dropout(nn.Module):
    """nn.Dropout that draws from its caller's generator; on the CPU, one random byte an element.

    The probability is exact for multiples of 1/256.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Any shape in and out; in training, elements are zeroed and the rest scaled up."""
        if not self.training:
            return x
        if x.device.type == "cpu":
            words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
            words.random_(-(2**63), None, generator=generator)
            kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= 256 * self.p
        else:
            kept = torch.rand(x.shape, device=x.device, generator=generator) >= self.p
        return x * (kept.to(x.dtype) * (1 / (1 - self.p)))


class Net(nn.Module):
    """Two convolutions and two linear layers: 1,199,882 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = sparse_gradients.PooledConv2d(32, 64, 3)
        self.dropout1 = Dropout(0.25)
        self.dropout2 = Dropout(0.5)
        self.fc1 = sparse_gradients.Linear(9216, 128)
        self.fc2 = nn.Linear(128, CLASSES)
        self.to(memory_format=torch.channels_last)  # pooling alone: 13 times as fast

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Normalised images (N, 1, 28, 28) → log-probabilities (N, 10), in float32 at least.

        Dropout draws from the generator.
        """
        x = F.relu(self.conv1(x), inplace=True)  # (N, 32, 26, 26)
        x = torch.flatten(self.conv2(x), 1)  # (N, 9216): 64 channels of 12 × 12, pooled
        x = F.relu(x, inplace=True)  # after pooling: the same values from a quarter of the work
        x = self.dropout1(x, generator)
        x = F.relu(self.fc1(x), inplace=True)  # (N, 128)
        x = self.fc2(self.dropout2(x, generator))
        return F.log_softmax(x, dim=1, dtype=torch.promote_types(x.dtype, torch.float32))  # (N, 10)


class Provenance(Record):
    """What weights were trained with; it travels in their file, as its only metadata key."""

    dry_run: bool
    parameters: dict[str, Any]  # the train section of params.yaml
    data: dict[str, str]  # file name → SHA-256


def describe(parameters: dict[str, Any], new: list[str]) -> Provenance:
    """What weights are trained with: the train section, MNIST's files, the names of new images."""
    paths = (TRAIN_IMAGES, TRAIN_LABELS)
    data = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    if new:
        data[f"{NEW_TRAIN}: {len(new)} images"] = hashlib.sha256("".join(new).encode()).hexdigest()
    unused = () if new else ("new_images_weight",)  # so that it changes no byte
    used = {name: value for name, value in parameters.items() if name not in unused}
    return Provenance(dry_run=parameters["dry_run"], parameters=used, data=data)


def predict(net: Net, images: Tensor, batch_size: int, workers: Workers) -> Tensor:
    """Images, uint8 (N, 28, 28), on the network's device → log-probabilities (N, 10), on the CPU.

    One thread of one process computes a batch. Leaves the network in evaluation mode.
    """
    net.eval()
    answers = torch.zeros(len(images), CLASSES, device=images.device)

    @torch.no_grad()  # here: around map, it would not reach the other threads
    def answer(batch: Tensor, place: Tensor) -> None:
        place.copy_(net(normalize(batch)))

    batches = zip(images.split(batch_size), answers.split(batch_size), strict=True)
    own = slice(workers.rank, None, workers.processes)
    workers.map(lambda batch: answer(*batch), [*batches][own])
    (whole,) = workers.add([[answers]])  # the other processes' answers are zeros here
    return whole.cpu()


def write_weights(path: Path, net: Net, provenance: Provenance) -> None:
    """Write weights and provenance: equal ones give equal bytes, wherever and whenever."""
    state = {name: tensor.cpu().contiguous() for name, tensor in net.state_dict().items()}
    # One metadata key at most: with several, safetensors orders them anew in each process.
    metadata = {"provenance": provenance.model_dump_json()}
    write_atomically(path, safetensors.torch.save(state, metadata))


def read_weights(path: Path) -> tuple[Net, Provenance]:
    """The network and its provenance.

    Raises InputError for a file that is no safetensors, does not fit Net, has no provenance, or
    holds a number that is not finite.
    """
    net = Net()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            provenance = Provenance.model_validate_json((file.metadata() or {})["provenance"])
            net.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        raise InputError(f"{path}: expected weights written by train, found: {error}") from error
    for name, tensor in net.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name}: expected finite numbers, found NaN or infinity")
    return net, provenance
