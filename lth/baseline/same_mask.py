"""Control: the ticket's mask, started by another cell of the rewinding matrix."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.history import History
from lth.protocol import Rewind
from lth.store.stored import Stored
from lth.training import Training
from lth.types import TrainState


@dataclass(frozen=True, kw_only=True)
class SameMask:
    """The ticket's mask with everything else as ``rewind`` says (a ``Matrix``)."""

    rewind: Rewind
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
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
        restart = self.rewind(history)
        return ticket.replace(
            start=restart.state,
            first_step=restart.first_step,
            last_step=restart.last_step,
            learning_rate=dataclasses.replace(ticket.learning_rate, hold=restart.hold),
        )
