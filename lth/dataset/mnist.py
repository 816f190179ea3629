"""MNIST: 60,000 + 10,000 handwritten digits of 28x28 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from lth.dataset.idx import Idx


@dataclass(frozen=True, kw_only=True)
class MNIST(Idx):
    """Y. LeCun, C. Cortes and C. Burges, 1998.

    5,000 train images are held out, as in Frankle and Carbin 2019.
    """

    validation: int | float = 5000
    mirrors: tuple[str, ...] = field(
        default=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        metadata={"semantic": False},
    )

    MD5: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }
