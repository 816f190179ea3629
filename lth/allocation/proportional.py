"""Allocations that fix each layer's share by its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lth.allocation.budget import pruned
from lth.mask import keep_top, remaining
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class ErdosRenyi:
    """Layer densities proportional to how thin a layer is (Mocanu et al. 2018; Evci et al. 2020).

    ``d_l = eps (n_in + n_out) / (n_in n_out)``; with ``kernel`` (ERK) the kernel's
    sides join the sum and its area the product. Layers that would exceed what
    they have left are kept whole and eps is solved for the others. The total is
    exact: the largest remainders are rounded up, ties to the earlier layer.
    """

    kernel: bool = True
    by_shape: ClassVar[bool] = True  # of weights: units of several have none of their own

    def raw(self, shape: tuple[int, ...]) -> float:
        """The density of a layer up to eps."""
        sides = shape if self.kernel else shape[:2]
        area = 1
        for side in sides:
            area *= side
        return sum(sides) / area

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
        total = survivors - pruned(survivors, rate, times) if keep is None else keep
        ideal = {n: self.raw(tuple(m.shape)) * m.numel() for n, m in mask.items()}
        limits = {n: int(m.sum()) for n, m in mask.items()}
        counts = share(ideal, limits, total)
        result: dict[str, Tensor] = {}
        for name, kept in mask.items():
            result |= keep_top(scores, {name: kept}, counts[name])
        return result


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
