"""Allocation by given counts: which layer keeps how many is settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lth.allocation.budget import solve
from lth.mask import keep_top
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Each layer keeps its highest ``counts[name]`` scores, whatever the rate.

    Where ``keep`` asks for more in all, as on the way of ``score_steps``, every
    layer has gone the same part t of its way, ``n (count / n) ** t``.
    """

    counts: Mapping[str, int]

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
        counts = {n: self.counts[n] for n in mask}
        if keep is not None and keep > sum(counts.values()):
            left = {n: int(m.sum()) for n, m in mask.items()}
            counts = solve(left, {n: 1 - counts[n] / max(1, left[n]) for n in left}, keep)
        result: dict[str, Tensor] = {}
        for name, kept in mask.items():
            result |= keep_top(scores, {name: kept}, counts[name])
        return result


def counts_of(mask: Mask) -> dict[str, int]:
    """How many weights each layer keeps."""
    return {n: int(m.sum()) for n, m in mask.items()}
