"""A learning rate that falls along half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """``floor + (1 - floor) (1 + cos(pi step / total)) / 2`` (Loshchilov & Hutter 2017, eq. 5).

    ``floor`` is the share of the base rate that is left after ``total`` steps.
    """

    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor: got {self.floor}, allowed: 0 to 1")

    def __call__(self, step: int, total: int) -> float:
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * step / total)) / 2
