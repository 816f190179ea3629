"""Control: the ticket's connections and signs with fresh magnitudes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class SignReinit:
    """``abs(fresh draw) * sign(ticket's start)`` on the prunable weights (Zhou et al. 2019).

    Biases, norms and buffers stay the ticket's, and so do span and data order.
    """

    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def __call__(self, ticket: Training, given: Materials) -> Training:
        drawn = given.fresh().weights
        start = ticket.start
        weights = {
            n: drawn[n].abs() * start.weights[n].sign() if n in given.history.layers else w
            for n, w in start.weights.items()
        }
        return ticket.replace(start=dataclasses.replace(start, weights=weights, optimizer=None))
