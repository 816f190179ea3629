"""Gaussian blobs as images: for tests, and for trying a configuration without data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lth.dataset.dataset import DataSet, Raw
from lth.option import at_least
from lth.stream import generator


@dataclass(frozen=True, kw_only=True)
class Synthetic(DataSet):
    """One template image per class plus Gaussian noise of standard deviation ``noise``.

    ``shape`` is (channels, height, width); ``train`` and ``test`` are counts.
    The data do not depend on the run's seed.
    """

    train: int = 256
    test: int = 128
    shape: tuple[int, ...] = (1, 8, 8)
    classes: int = 4
    noise: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ValueError(f"shape: got {list(self.shape)}, allowed: [channels, height, width]")
        if min(self.train, self.test) < 2:
            raise ValueError(f"train, test: got {self.train}, {self.test}, allowed: 2 or more")
        at_least("classes", self.classes, 2)

    def read(self, data_dir: Path) -> Raw:
        stream = generator("synthetic", self.classes, *self.shape)
        templates = torch.randn(self.classes, *self.shape, generator=stream)

        def draw(n: int, part: str) -> tuple[Tensor, Tensor]:
            own = generator("synthetic", part, n, self.classes, *self.shape)
            y = torch.randint(self.classes, (n,), generator=own)
            noise = torch.randn(n, *self.shape, generator=own)
            return templates[y] + self.noise * noise, y

        return Raw(*draw(self.train, "train"), *draw(self.test, "test"), self.classes, scale=1.0)
