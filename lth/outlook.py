"""What is known of a level before there is anything to make its Trainings from: their steps."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Ahead:
    """A Training to come, from ``first_step`` to ``last_step`` (where it stops early: at most).

    ``what`` tells those of a seed and level apart: equal ones are one Training.
    None for one that is nobody else's.
    """

    first_step: int
    last_step: int
    what: tuple[Hashable, ...] | None = None

    @property
    def updates(self) -> int:
        """How many optimiser updates it makes."""
        return self.last_step - self.first_step


def span(rewind: object, *, rewind_step: int, train_steps: int, updates_per_epoch: int) -> Ahead:
    """What ``rewind`` makes of a ticket; from k to T where it has no ``span`` to tell."""
    first, last = rewind_step, train_steps
    if hasattr(rewind, "span"):
        first, last = rewind.span(
            rewind_step=rewind_step, train_steps=train_steps, updates_per_epoch=updates_per_epoch
        )
    return Ahead(first_step=first, last_step=last)


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """One level of a seed. ``cost``: the updates spent on its mask; ``draw``: a control's."""

    ticket: Ahead
    parent: Ahead
    cost: int
    rewind_step: int
    train_steps: int
    updates_per_epoch: int
    draw: int = 0
