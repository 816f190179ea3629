"""Control: nothing of the ticket's start but its signs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.history import History
from lth.mask import prunable
from lth.store.stored import Stored
from lth.training import Training
from lth.types import TrainState

SCALES = ("init", "start")
SIGNS = ("ticket", "random")


@dataclass(frozen=True, kw_only=True)
class ConstantSign:
    """``sign(ticket's start) * s`` on the prunable weights ("constant", Zhou et al. 2019).

    ``s`` is the standard deviation of the whole layer, pruned weights
    included: of theta_0, as in the paper (``scale=init``), or of where the
    ticket's rewinding would put the dense network (``start``; the same where it
    starts from theta_0). ``signs=random`` draws signs in place of the ticket's.
    Biases, norms and buffers stay the ticket's, and so do span and data order.
    """

    scale: str = "init"
    signs: str = "ticket"
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise ValueError(f"scale: got {self.scale!r}, allowed: {', '.join(SCALES)}")
        if self.signs not in SIGNS:
            raise ValueError(f"signs: got {self.signs!r}, allowed: {', '.join(SIGNS)}")
        if self.draws < 1:
            raise ValueError(f"draws: got {self.draws}, allowed: 1 or more")
        if self.draws > 1 and self.signs == "ticket":
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
        weights = dict(ticket.start.weights)
        for name in prunable(ticket.mask):
            sign = weights[name].sign()
            if self.signs == "random":
                drawn = torch.randint(0, 2, sign.shape, generator=stream("signs", name))
                sign = (2 * drawn - 1).to(sign.dtype)
            weights[name] = sign * scale[name].std(correction=0)
        start = dataclasses.replace(ticket.start, weights=weights, optimizer=None)
        return ticket.replace(start=start)
