"""CIFAR-10: 50,000 + 10,000 colour photographs of 32x32 pixels in 10 classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lth.dataset.dataset import Downloadable, Raw
from lth.dataset.from_torchvision import read_cifar


@dataclass(frozen=True, kw_only=True)
class CIFAR10(Downloadable):
    """A. Krizhevsky, Learning multiple layers of features from tiny images, 2009."""

    validation: int | float = 5000

    def read(self, data_dir: Path) -> Raw:
        return read_cifar("CIFAR10", data_dir, num_classes=10, download=self.download)
