"""Control: the ticket's connections with its own values in other places."""

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
class Reshuffle:
    """The survivors' values at the start, permuted within each layer (Zhou et al. 2019, section 4).

    ``keep_signs``: magnitudes are permuted, and each place keeps its sign. Biases,
    norms and buffers stay the ticket's, and so do span and data order.
    """

    keep_signs: bool = True
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
        start = ticket.start
        weights = {n: w.clone() for n, w in start.weights.items()}
        for name, kept in ticket.mask.items():
            own = weights[name][kept]
            drawn = own[torch.randperm(len(own), generator=stream("values", name))]
            weights[name][kept] = drawn.abs() * own.sign() if self.keep_signs else drawn
        return ticket.replace(start=dataclasses.replace(start, weights=weights, optimizer=None))
