"""Iterative pruning: every level prunes the same share of what is left."""

from __future__ import annotations

from dataclasses import dataclass

from lth.protocol import Pruning


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """Parent ``level - 1``, rate ``rate`` of its survivors: density ``(1 - rate) ** level``."""

    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: got {self.rate}, allowed: 0 < rate < 1")

    def __call__(self, level: int) -> Pruning:
        return Pruning(parent=level - 1, rate=self.rate)
