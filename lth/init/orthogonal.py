"""Saxe et al. (2014): random orthogonal weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class Orthogonal(Initialize):
    """The weight as a matrix (out, rest) has orthonormal rows or columns, whichever are fewer.

    Gain 1, as in open_lth; biases zero (Saxe et al. have none). The matrix is
    the Q of a QR decomposition, so its last bits may differ between machines.
    """

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        nn.init.orthogonal_(weight, generator=generator)
