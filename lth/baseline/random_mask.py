"""Control: the ticket's weight count, but neither its layers nor its connections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.history import History
from lth.store.stored import Stored
from lth.training import Training
from lth.types import TrainState


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
        if self.draws < 1:
            raise ValueError(f"draws: got {self.draws}, allowed: 1 or more")

    def __call__(
        self,
        ticket: Training,
        *,
        history: History,
        dense_start: TrainState,
        fresh: Callable[[], TrainState],
        stream: Callable[..., torch.Generator],
        train: Callable[[Training], Stored],
    ) -> Training:
        grain = history.grain
        scores = {
            n: torch.rand(alive.shape, generator=stream("mask", n), dtype=torch.float64)
            for n, alive in grain.alive(ticket.mask).items()
        }
        return ticket.replace(mask=grain.draw(scores, ticket.mask), start=dense_start)
