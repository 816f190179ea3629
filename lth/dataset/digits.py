"""Handwritten digits that ship inside scikit-learn: 1,797 images of 8x8 pixels, 0 to 16."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from lth.dataset.dataset import DataSet, Raw
from lth.stream import generator

TEST_PER_CLASS = 36


@dataclass(frozen=True, kw_only=True)
class Digits(DataSet):
    """1,437 train and 360 test images (36 of each class, the same for every seed).

    Read from scikit-learn's own file, which does not import scikit-learn.
    Source: E. Alpaydin and C. Kaynak, UCI ML repository, 1998 (its test part).
    """

    validation: int | float = 360

    def read(self, data_dir: Path) -> Raw:
        found = find_spec("sklearn")
        if found is None or found.origin is None:
            raise FileNotFoundError("dataset=digits reads a file of scikit-learn: install it")
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        with gzip.open(path, "rt") as file:
            table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
        x, y = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64].long()
        shuffled = torch.randperm(len(y), generator=generator("digits", "test"))
        test = torch.cat(
            [shuffled[y[shuffled] == digit][:TEST_PER_CLASS] for digit in range(10)]
        ).sort()[0]
        is_test = torch.zeros(len(y), dtype=torch.bool)
        is_test[test] = True
        return Raw(x[~is_test], y[~is_test], x[is_test], y[is_test], num_classes=10, scale=16.0)
