"""PyTorch's own initialisation of every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class PyTorch(Initialize):
    """Each module's ``reset_parameters()``.

    Linear and Conv: weights and biases from U(-b, b) with b = sqrt(1 / fan_in).

    The layers' defaults, not what a model's constructor makes of them:
    torchvision's ResNets draw theirs by He's formula with fan_out.
    """

    bias: str = "pytorch"

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        """Nothing is left to do: the reset, which comes first, has drawn the weight."""
