"""He et al. (2015), normal: open_lth's default for every network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.init.initialize import Initialize


@dataclass(frozen=True, kw_only=True)
class KaimingNormal(Initialize):
    """N(0, std^2) with std = sqrt(2 / fan_in); biases zero (He et al. 2015, section 2.2).

    open_lth leaves biases at PyTorch's default and draws gamma uniformly:
    ``bias=pytorch``, ``gamma=uniform``.
    """

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
