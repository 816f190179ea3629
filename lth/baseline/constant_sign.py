"""Control: nothing of the ticket's start but its signs."""

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

SCALES = ("init", "start")


@dataclass(frozen=True, kw_only=True)
class ConstantSign:
    """``sign(ticket's start) * s`` on the prunable weights ("constant", Zhou et al. 2019).

    ``s`` is the standard deviation of the whole layer, pruned weights
    included: of theta_0, as in the paper (``scale=init``), or of where the
    ticket's rewinding would put the dense network (``start``; the same where it
    starts from theta_0). Biases, norms and buffers stay the ticket's, and so do
    span and data order.
    """

    scale: str = "init"
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale: got {self.scale!r}, allowed: {', '.join(SCALES)}")
        if self.draws != 1:
            raise ValueError(f"draws: got {self.draws}, allowed: 1 (nothing is drawn)")

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
        scale = (history.initial if self.scale == "init" else dense_start).weights
        weights = {
            n: w.sign() * scale[n].std(correction=0) if n in ticket.mask else w
            for n, w in ticket.start.weights.items()
        }
        start = dataclasses.replace(ticket.start, weights=weights, optimizer=None)
        return ticket.replace(start=start)
