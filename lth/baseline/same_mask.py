"""Control: the ticket's mask, started by another cell of the rewinding matrix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from lth.option import one_of
from lth.outlook import Ahead, Outlook, span
from lth.protocol import Materials, Rewind
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class SameMask:
    """The ticket's mask with everything else as ``rewind`` says (a ``Matrix``)."""

    rewind: Rewind
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("draws", self.draws, [1], why="nothing is drawn")

    def ahead(self, level: Outlook) -> list[Ahead]:
        """The span of ``rewind``."""
        return [
            span(
                self.rewind,
                rewind_step=level.rewind_step,
                train_steps=level.train_steps,
                updates_per_epoch=level.updates_per_epoch,
            )
        ]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        restart = self.rewind(given.history)
        return ticket.replace(
            start=restart.state,
            first_step=restart.first_step,
            last_step=restart.last_step,
            learning_rate=dataclasses.replace(ticket.learning_rate, hold=restart.hold),
        )
