"""Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28x28 pixels, 10 kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lth.dataset.idx import Idx


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(Idx):
    """H. Xiao, K. Rasul and R. Vollgraf, 2017 (arXiv 1708.07747)."""

    validation: int | float = 5000
    folder: str = "FashionMNIST"
    mirrors: tuple[str, ...] = field(
        default=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        metadata={"semantic": False},
    )

    MD5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }
