"""How many weights which layer keeps, where that is settled before anything is scored."""

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


def share(ideal: Mapping[str, float], limits: Mapping[str, int], total: int) -> dict[str, int]:
    """Counts proportional to ``ideal``, at most ``limits``, that add up to ``total``.

    ValueError where ``total`` exceeds all limits together.
    """
    if not 0 <= total <= sum(limits.values()):
        raise ValueError(f"cannot keep {total} of {sum(limits.values())} weights")
    full: set[str] = set()
    while True:
        free = {n: v for n, v in ideal.items() if n not in full}
        left = total - sum(limits[n] for n in full)
        scale = left / sum(free.values()) if free else 0.0
        over = {n for n, v in free.items() if v * scale > limits[n]}
        if not over:
            break
        full |= over
    exact = {n: limits[n] if n in full else ideal[n] * scale for n in ideal}
    counts = {n: int(v) for n, v in exact.items()}
    room = [n for n in ideal if counts[n] < limits[n]]
    room.sort(key=lambda n: counts[n] - exact[n])
    for name in room[: total - sum(counts.values())]:
        counts[name] += 1
    return counts
