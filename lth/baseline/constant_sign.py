"""Control: nothing of the ticket's start but its signs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.mask import prunable
from lth.option import at_least, one_of
from lth.protocol import Materials
from lth.training import Training

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
        one_of("scale", self.scale, SCALES)
        one_of("signs", self.signs, SIGNS)
        at_least("draws", self.draws, 1)
        if self.draws > 1 and self.signs == "ticket":
            raise ValueError(f"draws: got {self.draws}, allowed: 1 (nothing is drawn)")

    def __call__(self, ticket: Training, given: Materials) -> Training:
        scale = (given.history.initial if self.scale == "init" else given.dense_start).weights
        weights = dict(ticket.start.weights)
        for name in prunable(ticket.mask):
            sign = weights[name].sign()
            if self.signs == "random":
                drawn = torch.randint(0, 2, sign.shape, generator=given.stream("signs", name))
                sign = (2 * drawn - 1).to(sign.dtype)
            weights[name] = sign * scale[name].std(correction=0)
        start = dataclasses.replace(ticket.start, weights=weights, optimizer=None)
        return ticket.replace(start=start)
