"""A learning rate that does not change."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The multiplier 1 at every step."""

    def __call__(self, step: int, total: int) -> float:
        return 1.0
