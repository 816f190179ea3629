"""Small networks in float64 whose units are coupled in every way that is followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class _Residual(nn.Module):
    """A stem, a residual block around it, a depthwise convolution, a concatenation, two Linear.

    Units are ``stem`` (of stem, conv2, depthwise), ``inner`` (conv1), ``branch``,
    ``last`` (conv3, which reads stem and branch) and ``hidden`` (fc1, which reads
    four pixels of each).
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        stem: int = 6,
        inner: int = 5,
        branch: int = 4,
        last: int = 5,
        hidden: int = 7,
    ) -> None:
        super().__init__()
        own: dict[str, Any] = {"dtype": torch.float64}
        self.stem = nn.Conv2d(input_shape[0], stem, 3, padding=1, **own)
        self.bn0 = nn.BatchNorm2d(stem, **own)
        self.conv1 = nn.Conv2d(stem, inner, 3, padding=1, bias=False, **own)
        self.bn1 = nn.BatchNorm2d(inner, **own)
        self.conv2 = nn.Conv2d(inner, stem, 3, padding=1, bias=False, **own)
        self.bn2 = nn.BatchNorm2d(stem, **own)
        self.depthwise = nn.Conv2d(stem, stem, 3, padding=1, groups=stem, **own)
        self.branch = nn.Conv2d(stem, branch, 1, **own)
        self.conv3 = nn.Conv2d(stem + branch, last, 1, **own)
        self.fc1 = nn.Linear(last * (input_shape[1] // 3) * (input_shape[2] // 3), hidden, **own)
        self.bn3 = nn.BatchNorm1d(hidden, **own)
        self.fc2 = nn.Linear(hidden, num_classes, **own)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn0(self.stem(x.double())).relu()
        out = self.bn1(self.conv1(x)).relu()
        x = (x + self.bn2(self.conv2(out))).relu()
        # Sigmoid of nothing is not nothing: only the masked columns keep it from leaking.
        x = torch.cat([self.depthwise(x), self.branch(x).sigmoid()], 1)
        x = nn.functional.avg_pool2d(self.conv3(x).tanh(), 3).flatten(1)
        return self.fc2(self.bn3(self.fc1(x)).relu())  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def Residual() -> Callable[..., nn.Module]:
    """The class; widths by ``stem``, ``inner``, ``branch``, ``last``, ``hidden``."""
    return _Residual
