"""Glorot and Bengio (2010), normal: the initialisation of Frankle and Carbin (2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class GlorotNormal(Initialize):
    """N(0, std^2) with std = sqrt(2 / (fan_in + fan_out)); biases zero, as in the 2019 paper.

    The authors' TensorFlow 1 code has the same variance from a normal that is
    truncated at two standard deviations; this one is not truncated.
    """

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        nn.init.xavier_normal_(weight, generator=generator)
