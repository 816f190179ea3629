"""Global allocation: all layers compete for one budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lth.allocation.budget import pruned
from lth.mask import keep_top, remaining
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class GlobalTop:
    """Keep the highest scores of all layers together (Frankle & Carbin 2019, deep networks)."""

    def __call__(
        self,
        scores: Scores,
        mask: Mask,
        *,
        layers: Mapping[str, str],
        rate: float,
        times: int,
        keep: int | None,
    ) -> Mask:
        survivors = remaining(mask)
        count = survivors - pruned(survivors, rate, times) if keep is None else keep
        return keep_top(scores, mask, count)
