"""How units of different sizes are drawn so that they hold as many weights as others."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lth.mask import keep_top, size
from lth.types import Mask, Scores


def as_many(scores: Scores, safe: Mask, target: int, weights: Callable[[Mask], int]) -> Mask:
    """Of all units the highest scores, so many that ``weights`` of them is nearest to ``target``.

    Units in ``safe`` are always among them. Of two counts as near, the smaller.
    """
    everything = {n: torch.ones_like(m) for n, m in safe.items()}
    rest = {n: ~m for n, m in safe.items()}

    def first(count: int) -> Mask:
        chosen = keep_top(scores, rest, count)
        return {n: safe[n] | chosen[n] for n in safe}

    low, high = 0, size(everything) - sum(int(m.sum()) for m in safe.values())
    # The most units whose weights stay within the target; one more may be nearer.
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if weights(first(middle)) <= target else (low, middle - 1)
    fewer = first(low)
    if low == sum(int(m.sum()) for m in rest.values()):
        return fewer
    more = first(low + 1)
    return more if weights(more) - target < target - weights(fewer) else fewer
