"""Control: the dense network, trained for as long as the ticket took to be found and trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.option import one_of
from lth.outlook import Ahead, Outlook
from lth.protocol import Materials
from lth.training import LearningRate, Training


@dataclass(frozen=True, kw_only=True)
class DenseTotal:
    """Dense from theta_0 for T' = the ticket's search steps + its own updates.

    Methods are to be compared at their total cost (Blalock et al. 2020; Ma et
    al. 2021): T' grows with the level. The schedule of T steps is stretched to
    T', its drops at the same parts of the training, warm-up included. Data
    order is the ticket's.
    """

    draws: int = 1
    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("draws", self.draws, [1], why="nothing is drawn")

    def ahead(self, level: Outlook) -> list[Ahead]:
        """T' updates."""
        return [Ahead(first_step=0, last_step=level.cost + level.ticket.updates)]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        total = given.history.lineage.cost + ticket.updates
        rate = ticket.learning_rate
        return ticket.replace(
            mask={n: torch.ones_like(m) for n, m in ticket.mask.items()},
            start=given.history.initial,
            first_step=0,
            last_step=total,
            learning_rate=LearningRate(
                shape=Stretched(shape=rate.shape, total=rate.total),
                total=total,
                warmup=round(rate.warmup * total / rate.total),
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Stretched:
    """``shape`` over ``total`` steps, drawn out (or together) to any other number of them."""

    shape: Callable[[int, int], float]
    total: int

    def __call__(self, step: int, total: int) -> float:
        return self.shape(step * self.total // total, self.total)
