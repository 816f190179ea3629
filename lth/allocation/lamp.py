"""LAMP: layer-adaptive scores, ranked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.allocation.budget import pruned
from lth.mask import keep_top, remaining
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Lamp:
    """``s^2 / sum of s^2 of its layer's survivors with at least that score`` (Lee et al. 2021).

    A layer's best weight has the score 1, so no layer is emptied before all are
    down to one. Among equals the later index counts as the smaller.
    """

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
        return keep_top({n: lamp(scores[n], m) for n, m in mask.items()}, mask, count)


def lamp(scores: Tensor, kept: Tensor) -> Tensor:
    """The scores of one layer in float64; -inf where it is pruned."""
    alive = kept.flatten().nonzero().flatten()
    values = scores.flatten()[alive].double()
    # What went in an earlier scoring step has the score -inf, and stays behind all others.
    alive, values = alive[values > -torch.inf], values[values > -torch.inf]
    # Signed scores (GraSP) keep their order: the lowest counts as nothing.
    if bool((values < 0).any()):
        values = values - values.min()
    order = torch.argsort(values, descending=True, stable=True)
    squares = values[order].square()
    sums = squares.cumsum(0)
    result = torch.full((scores.numel(),), -torch.inf, dtype=torch.float64)
    result[alive[order]] = torch.where(sums > 0, squares / sums.clamp_min(1e-300), 0.0)
    return result.view(scores.shape)
