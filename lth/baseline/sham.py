"""Negative control: nothing is pruned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.history import History
from lth.store.stored import Stored
from lth.training import Training
from lth.types import TrainState


@dataclass(frozen=True, kw_only=True)
class Sham:
    """A full mask from the dense theta_k: the gap to dense is only restart and data order."""

    draws: int = 1
    searched: ClassVar[bool] = False

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
        full = {n: torch.ones_like(m) for n, m in ticket.mask.items()}
        return ticket.replace(mask=full, start=dense_start)
