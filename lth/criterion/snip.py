"""SNIP: connection sensitivity."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lth.gradient import Batches, Forward, check_batches, mean_gradient
from lth.history import History
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class SNIP:
    """``abs(w g)``, g the loss gradient averaged over ``num_batches`` batches (Lee et al. 2019).

    One batch as published; null takes an epoch. Modules are in train mode.
    """

    num_batches: int | None = 1

    def __post_init__(self) -> None:
        check_batches(self.num_batches)

    def __call__(
        self,
        history: History,
        mask: Mask,
        *,
        forward: Forward,
        batches: Batches,
        generator: torch.Generator,
    ) -> Scores:
        state = history.scored
        gradient = mean_gradient(state, mask, forward, batches, self.num_batches)
        return {n: (state.weights[n] * g).abs() for n, g in gradient.items()}
