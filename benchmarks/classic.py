"""The classic program, plainly written, as a user would have it: the benchmark's baseline.

No trick and no option: torchvision's MNIST through a DataLoader with a transform for each image,
batches of 64, Adadelta, a test in batches of 1,000.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


class Net(nn.Module):
    """The network as the classic program has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.dropout2 = nn.Dropout(0.5)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = self.dropout2(x)
        return F.log_softmax(self.fc2(x), dim=1)


def loaders(root: Path) -> tuple[DataLoader, DataLoader]:
    """Training images in batches of 64, shuffled, and test images in batches of 1,000."""
    normalize = transforms.Normalize((0.1307,), (0.3081,))
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    training = datasets.MNIST(str(root), train=True, download=True, transform=transform)
    test = datasets.MNIST(str(root), train=False, transform=transform)
    return DataLoader(training, batch_size=64, shuffle=True), DataLoader(test, batch_size=1000)


def step(net: Net, data: Tensor, target: Tensor, optimizer: Optimizer) -> Tensor:
    """One step of training; the batch's loss."""
    device = next(net.parameters()).device
    data, target = data.to(device), target.to(device)
    optimizer.zero_grad()
    loss = F.nll_loss(net(data), target)
    loss.backward()
    optimizer.step()
    return loss


def test(net: Net, loader: DataLoader) -> int:
    """How many test images the network reads right."""
    net.eval()
    device = next(net.parameters()).device
    correct, loss = 0, 0.0
    with torch.no_grad():
        for images, labels in loader:
            data, target = images.to(device), labels.to(device)
            output = net(data)
            loss += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(dim=1, keepdim=True)
            correct += int(pred.eq(target.view_as(pred)).sum().item())
    return correct
