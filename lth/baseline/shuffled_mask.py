"""Control: the ticket's layer densities, but not its connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class ShuffledMask:
    """The ticket's mask permuted within each layer, anew at every level and draw.

    What is permuted are the granularity's own units: blocks stay blocks, a
    shuffled 2:4 mask is 2:4, coupled units stay coupled.

    Weights, biases, norms and buffers come from the dense network (never from
    the ticket's masked start, which would leave most of them at zero), span and
    data order from the ticket.
    """

    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def __call__(self, ticket: Training, given: Materials) -> Training:
        mask = given.history.grain.shuffle(ticket.mask, given.stream("mask"))
        return ticket.replace(mask=mask, start=given.dense_start)
