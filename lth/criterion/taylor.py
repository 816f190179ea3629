"""First-order Taylor: the squared change of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lth.gradient import Batches, Forward, check_batches, mean_over_examples
from lth.history import History
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Taylor:
    """The mean over examples of ``(w g)^2``, g an example's own gradient (Molchanov et al. 2019).

    Over ``num_batches`` training batches (null: an epoch); modules are in eval mode.
    """

    num_batches: int | None = 10

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

        def of(name: str, g: Tensor) -> Tensor:
            return (state.weights[name] * g).square()

        return mean_over_examples(state, mask, forward, batches, self.num_batches, of=of)
