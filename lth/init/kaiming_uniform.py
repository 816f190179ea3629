"""He et al. (2015), uniform with the same variance as their normal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class KaimingUniform(Initialize):
    """U(-b, b) with b = sqrt(6 / fan_in), i.e. std = sqrt(2 / fan_in); biases zero.

    Not PyTorch's default, whose bound is sqrt(1 / fan_in): that is ``pytorch``.
    """

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
