"""The usual way of training a masked LeNet: PIL images, transforms, DataLoader, mask in forward."""

from __future__ import annotations

import gzip
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from lth.torchvision_import import torchvision


class Pictures(Dataset[tuple[Tensor, int]]):
    """MNIST as torchvision's data set gives it: a PIL image, then transforms, one at a time."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        transforms = torchvision().transforms
        self.images, self.labels = images.squeeze(1).numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


class MaskedLinear(nn.Linear):
    """A layer that multiplies its weight by a mask in every forward pass."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.ones(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


def network() -> nn.Module:
    """LeNet-300-100 with masked layers."""
    return nn.Sequential(
        nn.Flatten(),
        MaskedLinear(784, 300),
        nn.ReLU(),
        MaskedLinear(300, 100),
        nn.ReLU(),
        MaskedLinear(100, 10),
    )


def train(data: Dataset[tuple[Tensor, int]], *, steps: int, batch_size: int, rate: float) -> float:
    """The mean loss of ``steps`` SGD updates; two DataLoader workers."""
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=2, drop_last=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    total, done = 0.0, 0
    while done < steps:
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            done += 1
            if done == steps:
                break
    return total / steps


@torch.no_grad()
def evaluate(data: Dataset[tuple[Tensor, int]], *, batch_size: int) -> float:
    """The mean loss over a split, through the same DataLoader."""
    loader = DataLoader(data, batch_size=batch_size, num_workers=2)
    model = network()
    total, count = 0.0, 0
    for x, y in loader:
        total += F.cross_entropy(model(x), y, reduction="sum").item()
        count += len(y)
    return total / count


def mnist(folder: Path) -> Dataset[tuple[Tensor, int]]:
    """torchvision's MNIST with the usual transforms; the archives are unpacked for it."""
    raw = Path(tempfile.mkdtemp()) / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in (folder / "MNIST" / "raw").glob("*.gz"):
        (raw / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
    transforms = torchvision().transforms
    usual = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    return torchvision().datasets.MNIST(  # type: ignore[no-any-return]
        raw.parents[1], transform=transforms.Compose(usual)
    )


def first(data: Dataset[tuple[Tensor, int]], count: int) -> Dataset[tuple[Tensor, int]]:
    """The first examples of a data set."""
    return Subset(data, range(count))


def floor(steps: int, *, batch_size: int, inputs: int = 784) -> None:
    """The matrix products of ``steps`` updates of LeNet-300-100, and nothing else."""
    sizes = [inputs, 300, 100, 10]
    x = [torch.randn(batch_size, n) for n in sizes]
    w = [torch.randn(b, a) for a, b in pairwise(sizes)]
    for _ in range(steps):
        for i, weight in enumerate(w):
            x[i] @ weight.T
            x[i + 1].T @ x[i]
            if i > 0:
                x[i + 1] @ weight
