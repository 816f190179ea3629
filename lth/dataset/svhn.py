"""SVHN: 73,257 + 26,032 colour photographs of house numbers, 32x32 pixels, 10 digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lth.dataset.dataset import Downloadable, Raw
from lth.dataset.from_torchvision import read_svhn


@dataclass(frozen=True, kw_only=True)
class SVHN(Downloadable):
    """Y. Netzer et al., Reading digits in natural images, 2011. Its file format needs scipy."""

    validation: int | float = 5000

    def read(self, data_dir: Path) -> Raw:
        return read_svhn(data_dir, download=self.download)
