"""Control: the ticket's connections and signs with one magnitude per layer."""

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
class SignedConstant:
    """``sigma * sign(ticket's start)`` on the prunable weights (Zhou et al. 2019, section 4).

    sigma is the standard deviation of that layer in the dense network at the
    same step, pruned weights included (at k = 0: of theta_0, as in the paper).
    ``signs=random`` draws signs instead. Biases, norms and buffers stay the
    ticket's, and so do span and data order.
    """

    signs: str = "ticket"
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.signs not in ("ticket", "random"):
            raise ValueError(f"signs: got {self.signs!r}, allowed: ticket, random")
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
        start = ticket.start
        weights = dict(start.weights)
        for name in ticket.mask:
            sign = weights[name].sign()
            if self.signs == "random":
                drawn = torch.randint(0, 2, sign.shape, generator=stream("signs", name))
                sign = (2 * drawn - 1).to(sign.dtype)
            weights[name] = sign * dense_start.weights[name].std(correction=0)
        return ticket.replace(start=dataclasses.replace(start, weights=weights, optimizer=None))
