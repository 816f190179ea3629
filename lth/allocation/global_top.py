"""Global allocation: all layers compete for one budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lth.allocation.budget import pruned
from lth.mask import keep_top, remaining
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class GlobalTop:
    """Keep the highest scores of all layers together (Frankle & Carbin 2019, deep networks).

    ``floor``: of each layer at least so many survivors stay, its highest.
    """

    floor: int = 0

    def __post_init__(self) -> None:
        if self.floor < 0:
            raise ValueError(f"floor: got {self.floor}, allowed: 0 or more weights")

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
        if self.floor == 0:
            return keep_top(scores, mask, count)
        safe: dict[str, Tensor] = {}
        for name, kept in mask.items():
            safe |= keep_top(scores, {name: kept}, min(self.floor, int(kept.sum())))
        if remaining(safe) > count:
            raise ValueError(f"floor: got {self.floor}, allowed: at most {count} weights in all")
        rest = {n: m & ~safe[n] for n, m in mask.items()}
        chosen = keep_top(scores, rest, count - remaining(safe))
        return {n: safe[n] | chosen[n] for n in mask}
