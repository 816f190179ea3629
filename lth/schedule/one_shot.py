"""One-shot pruning: every level is pruned at once from the dense network."""

from __future__ import annotations

from dataclasses import dataclass

from lth.protocol import Pruning


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Parent 0 for every level; a layer with rate p keeps ``(1 - p) ** level``.

    So its densities are those of the iterative ladder, within rounding
    (Frankle & Carbin 2019, section 2).
    """

    rate: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: got {self.rate}, allowed: 0 < rate < 1")

    def __call__(self, level: int) -> Pruning:
        return Pruning(parent=0, rate=self.rate, times=level)
