"""Pruning to given densities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lth.protocol import Pruning


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Level l has density ``densities[l - 1]`` (kept / all prunable), parent ``level - 1``.

    ``one_shot``: the parent of every level is the dense network.
    ``rate`` fixes only the proportions: a layer-wise allocation keeps
    ``(1 - rate_layer) ** t`` of each layer, with t solved for the target.
    """

    densities: Sequence[float]
    rate: float = 0.2
    one_shot: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate: got {self.rate}, allowed: 0 < rate < 1")
        falling = [1.0, *self.densities, 0.0]
        if not self.densities or any(a <= b for a, b in pairwise(falling)):
            raise ValueError(
                f"densities: got {list(self.densities)}, allowed: falling fractions below 1 "
                "and above 0"
            )

    def __call__(self, level: int) -> Pruning:
        if level > len(self.densities):
            raise ValueError(
                f"densities: got {len(self.densities)}, allowed: one for each of the levels"
            )
        parent = 0 if self.one_shot else level - 1
        return Pruning(parent=parent, rate=self.rate, density=self.densities[level - 1])
