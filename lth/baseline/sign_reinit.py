"""Control: the ticket's connections and signs with fresh magnitudes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.history import History
from lth.store.stored import Stored
from lth.training import Training
from lth.types import TrainState


@dataclass(frozen=True, kw_only=True)
class SignReinit:
    """``abs(fresh draw) * sign(ticket's start)`` on the prunable weights (Zhou et al. 2019).

    Biases, norms and buffers stay the ticket's, and so do span and data order.
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
        drawn = fresh().weights
        start = ticket.start
        weights = {
            n: drawn[n].abs() * start.weights[n].sign() if n in history.layers else w
            for n, w in start.weights.items()
        }
        return ticket.replace(start=dataclasses.replace(start, weights=weights, optimizer=None))
