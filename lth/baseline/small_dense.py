"""Control: a small network that was dense from the start."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lth import mask as masks
from lth.layer import kinds
from lth.mask import remaining
from lth.narrow import nearest, widths
from lth.option import at_least
from lth.outlook import Ahead, Outlook
from lth.protocol import Materials
from lth.stream import generator
from lth.training import Training, build_model

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class SmallDense:
    """A narrower dense network with as many weights as the ticket (Zhu & Gupta 2017).

    Of all widths of the model up to its own it is that whose count of prunable
    weights is nearest to the ticket's by their ratio; widths are whole numbers, so
    the counts differ by what one unit more or less makes. It starts from a
    fresh theta_0 of its own and trains all T steps, warm-up included, on the
    ticket's data order. Nothing in it is pruned, so its density is 1.
    """

    draws: int = 1
    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def check(self, search: Search) -> None:
        """A model without a width has no narrower form."""
        widths(search.model)

    def ahead(self, level: Outlook) -> list[Ahead]:
        """All T updates."""
        return [Ahead(first_step=0, last_step=level.train_steps)]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        model = nearest(ticket.model, ticket.task, remaining(masks.prunable(ticket.mask)))
        start = given.fresh(model)
        layers = kinds(build_model(model, ticket.task, generator("layers")))
        return ticket.replace(
            model=model,
            mask=masks.full(start.weights, layers),
            start=start,
            first_step=0,
            last_step=given.history.train_steps,
            learning_rate=dataclasses.replace(ticket.learning_rate, hold=False),
            fill=None,
        )
