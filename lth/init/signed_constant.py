"""Ramanujan et al. (2020), "signed Kaiming constant": all weights of a layer are equally large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class SignedConstant(Initialize):
    """+s or -s with equal probability, s = sqrt(2 / fan_in); biases zero (their layers have none).

    Every magnitude in a layer ties, so magnitude at initialisation says nothing.
    """

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        std = math.sqrt(2 / weight[0].numel())
        weight.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(std)
