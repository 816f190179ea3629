"""Unstructured: every weight is a unit of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lth.mask import keep_top, permuted, remaining
from lth.protocol import Allocation
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Single weights (Han et al. 2015), the granularity of Frankle & Carbin (2019)."""

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> SingleWeights:
        return SingleWeights(
            layers={n: kind for n, kind in layers.items() if n not in excluded}, excluded=excluded
        )


@dataclass(frozen=True, kw_only=True)
class SingleWeights:
    """The weights of the layers that pruning may touch."""

    layers: Mapping[str, str]
    excluded: frozenset[str]
    fixed: ClassVar[bool] = False
    weights_per_unit: ClassVar[int | None] = 1
    bypassed: ClassVar[frozenset[str]] = frozenset()

    @property
    def scored(self) -> frozenset[str]:
        return frozenset(self.layers)

    def alive(self, mask: Mask) -> Mask:
        return {n: m for n, m in mask.items() if n not in self.excluded}

    def score(self, scores: Scores, mask: Mask) -> Scores:
        return scores

    def expand(self, alive: Mask, mask: Mask) -> dict[str, Tensor]:
        return {n: alive.get(n, m) for n, m in mask.items()}

    def spending(self, allocation: Allocation) -> Allocation:
        return allocation

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask:
        return permuted(mask, generator)

    def draw(self, scores: Scores, mask: Mask) -> Mask:
        alive = self.alive(mask)
        everything = {n: torch.ones_like(m) for n, m in alive.items()}
        return self.expand(keep_top(scores, everything, remaining(alive)), mask)
