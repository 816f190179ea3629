"""Control: the ticket's layer densities, but not its connections."""

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
        mask = history.grain.shuffle(ticket.mask, stream("mask"))
        return ticket.replace(mask=mask, start=dense_start)
