"""Negative control: nothing is pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.option import one_of
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Sham:
    """A full mask from the dense theta_k: the gap to dense is only restart and data order."""

    draws: int = 1
    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of("draws", self.draws, [1], why="nothing is drawn")

    def __call__(self, ticket: Training, given: Materials) -> Training:
        full = {n: torch.ones_like(m) for n, m in ticket.mask.items()}
        return ticket.replace(mask=full, start=given.dense_start)
