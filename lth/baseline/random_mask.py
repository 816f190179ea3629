"""Control: the ticket's weight count, but neither its layers nor its connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class RandomMask:
    """As many weights as the ticket, drawn uniformly from all that pruning may touch.

    Whole units of the granularity are drawn, with as many weights as near as
    units allow. Excluded layers stay whole, as in the ticket. Everything else is the dense
    network's; span and data order are the ticket's.
    """

    draws: int = 1
    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def __call__(self, ticket: Training, given: Materials) -> Training:
        grain = given.history.grain
        scores = {
            n: torch.rand(alive.shape, generator=given.stream("mask", n), dtype=torch.float64)
            for n, alive in grain.alive(ticket.mask).items()
        }
        return ticket.replace(mask=grain.draw(scores, ticket.mask), start=given.dense_start)
