"""Ramanujan et al. (2020), "signed Kaiming constant": all weights of a layer are equally large."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.init.initialize import Initialize, check_density


@dataclass(frozen=True, kw_only=True)
class SignedConstant(Initialize):
    """+s or -s with equal probability, s = sqrt(2 / fan_in); biases zero (their layers have none).

    Every magnitude in a layer ties, so magnitude at initialisation says nothing.

    ``density`` k scales s by sqrt(1 / k), so that a network that uses a share k of
    its weights, as edge-popup's does, has activations of the usual size (their
    "scaled" form; k is a number of its own, whatever density a level has). Level 0
    and controls that draw afresh are drawn so too. Their code, in which the share
    that is used is ``prune_rate``, divides by 1 - k: the same only at a half.
    """

    density: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_density(self.density)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        std = math.sqrt(2 / (self.density * weight[0].numel()))
        weight.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(std)
