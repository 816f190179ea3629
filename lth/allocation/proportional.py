"""Allocations that fix each layer's share by its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lth.allocation.budget import pruned
from lth.counts import share
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
