"""Kuzushiji-MNIST: 60,000 + 10,000 cursive Japanese characters, 28x28 pixels, 10 kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lth.dataset.idx import Idx


@dataclass(frozen=True, kw_only=True)
class KMNIST(Idx):
    """T. Clanuwat et al., 2018 (arXiv 1812.01718)."""

    validation: int | float = 5000
    folder: str = "KMNIST"
    mirrors: tuple[str, ...] = field(
        default=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
        metadata={"semantic": False},
    )

    MD5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "bdb82020997e1d708af4cf47b453dcf7",
        "train-labels-idx1-ubyte": "e144d726b3acfaa3e44228e80efcd344",
        "t10k-images-idx3-ubyte": "5c965bf0a639b31b8f53240b1b52f4d7",
        "t10k-labels-idx1-ubyte": "7320c461ea6c1c855c0b718fb2a4b134",
    }
