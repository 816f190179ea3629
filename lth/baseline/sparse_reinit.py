"""Control: fresh values that know how sparse their network is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lth.baseline.random_reinit import RandomReinit
from lth.mask import prunable
from lth.option import at_least, one_of
from lth.outlook import Ahead, Outlook
from lth.protocol import Materials
from lth.training import Training

ORIGINS = ("init", "k")


@dataclass(frozen=True, kw_only=True)
class SparseReinit:
    """``random_reinit`` with the variance of each unit's actual fan-in (Evci et al. 2022).

    The fresh draw is ``random_reinit``'s own, so that the two differ by scale
    alone; the weights into a unit are multiplied by
    ``sqrt(fan_in / fan_in that the mask keeps)``. Under He's initialisation that
    is the paper's N(0, 2 / fan_in of the unit); any other keeps its own form.
    ``origin``: ``init`` or ``k``, as for ``random_reinit``.
    """

    origin: str = "init"
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("origin", self.origin, ORIGINS)
        at_least("draws", self.draws, 1)

    def ahead(self, level: Outlook) -> list[Ahead]:
        """As ``random_reinit``, with other values."""
        (own,) = RandomReinit(origin=self.origin).ahead(level)
        return [dataclasses.replace(own, what=("sparse", own.what))]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        dense_fan = RandomReinit(origin=self.origin)(ticket, given)
        start = dense_fan.start
        kept = prunable(ticket.mask)
        weights = {n: w * gain(kept[n]) if n in kept else w for n, w in start.weights.items()}
        return dense_fan.replace(start=dataclasses.replace(start, weights=weights))


def gain(mask: Tensor) -> Tensor:
    """``sqrt(fan_in / kept fan_in)`` of each unit, the first dimension; 1 where none is kept."""
    fan_in = mask[0].numel()
    kept = mask.flatten(1).sum(1)
    factor = torch.where(kept > 0, fan_in / kept.clamp_min(1), 1.0).sqrt()
    return factor.view(-1, *[1] * (mask.ndim - 1))
