"""He et al. (2015), normal: open_lth's default for every network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.init.initialize import Initialize, check_density


@dataclass(frozen=True, kw_only=True)
class KaimingNormal(Initialize):
    """N(0, std^2) with std = sqrt(2 / fan_in); biases zero (He et al. 2015, section 2.2).

    open_lth leaves biases at PyTorch's default and draws gamma uniformly:
    ``bias=pytorch``, ``gamma=uniform``. ``density`` k scales the std by sqrt(1 / k),
    for networks that use a share k of their weights (Ramanujan et al. 2020, "scaled
    Kaiming normal"; see ``SignedConstant``).
    """

    density: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_density(self.density)

    def fill_(self, weight: Tensor, generator: torch.Generator) -> None:
        nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        if self.density != 1:
            weight.mul_(self.density**-0.5)
