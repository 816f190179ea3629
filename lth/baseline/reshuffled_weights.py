"""Control: the ticket's connections and its own start values, but not which goes where."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.mask import prunable
from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class ReshuffledWeights:
    """The survivors' start values permuted within each layer ("reshuffle", Zhou et al. 2019).

    Every layer keeps its values, so their distribution is the ticket's to the
    last bit, signs included; only their places are drawn, anew at every level
    and draw. ``keep_signs``: magnitudes are permuted, and each place keeps its
    sign. Biases, norms, buffers, span and data order stay the ticket's.
    """

    keep_signs: bool = False
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def __call__(self, ticket: Training, given: Materials) -> Training:
        generator = given.stream("weights")
        weights = dict(ticket.start.weights)
        for name, kept in prunable(ticket.mask).items():
            values = weights[name][kept]
            order = torch.randperm(values.numel(), generator=generator)
            drawn = values[order]
            if self.keep_signs:
                drawn = drawn.abs() * values.sign()
            weights[name] = weights[name].masked_scatter(kept, drawn)
        start = dataclasses.replace(ticket.start, weights=weights, optimizer=None)
        return ticket.replace(start=start)
