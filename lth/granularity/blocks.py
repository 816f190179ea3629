"""Blocks of weights that are pruned whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lth.granularity.draw import as_many
from lth.mask import permuted, remaining
from lth.option import at_least
from lth.protocol import Allocation
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Blocks of ``rows`` outputs times ``columns`` inputs (Narang et al. 2017; Gray et al. 2017).

    The kernels of a convolution lie in its (out, in) matrix and are kept or
    pruned with their block. A block's score is the mean of its weights' scores;
    allocation ranks and counts whole blocks. A layer whose matrix does not
    divide into such blocks stays whole.
    """

    rows: int = 2
    columns: int = 2

    def __post_init__(self) -> None:
        at_least("rows", self.rows, 1)
        at_least("columns", self.columns, 1)

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> Tiles:
        shapes = {n: p.shape for n, p in module.named_parameters() if n in layers}
        fit = {
            n: kind
            for n, kind in layers.items()
            if n not in excluded
            and not shapes[n][0] % self.rows
            and not shapes[n][1] % self.columns
        }
        if not fit:
            sides = ", ".join(f"{n} {shapes[n][0]} x {shapes[n][1]}" for n in layers)
            raise ValueError(
                f"rows: got {self.rows} x {self.columns}, allowed: blocks that divide the matrix "
                f"of some layer ({sides})"
            )
        sizes = {self.rows * self.columns * math.prod(shapes[n][2:]) for n in fit}
        return Tiles(
            layers=fit,
            excluded=frozenset(layers) - fit.keys(),
            rows=self.rows,
            columns=self.columns,
            weights_per_unit=sizes.pop() if len(sizes) == 1 else None,
        )


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The layers that divide into blocks; a unit is a block, told by (out / rows, in / columns)."""

    layers: Mapping[str, str]
    excluded: frozenset[str]
    rows: int
    columns: int
    weights_per_unit: int | None
    fixed: ClassVar[bool] = False
    bypassed: ClassVar[frozenset[str]] = frozenset()

    @property
    def scored(self) -> frozenset[str]:
        return frozenset(self.layers)

    def alive(self, mask: Mask) -> Mask:
        return {n: tiled(mask[n], self.rows, self.columns).any(-1) for n in self.layers}

    def score(self, scores: Scores, mask: Mask) -> Scores:
        return {n: tiled(scores[n], self.rows, self.columns).mean(-1) for n in self.layers}

    def expand(self, alive: Mask, mask: Mask) -> dict[str, Tensor]:
        return {n: self._whole(alive[n], m) if n in alive else m for n, m in mask.items()}

    def _whole(self, alive: Tensor, mask: Tensor) -> Tensor:
        blocks = alive.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)
        return blocks.view(*mask.shape[:2], *(1 for _ in mask.shape[2:])).expand_as(mask).clone()

    def spending(self, allocation: Allocation) -> Allocation:
        return allocation

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask:
        return self.expand(permuted(self.alive(mask), generator), mask)

    def draw(self, scores: Scores, mask: Mask) -> Mask:
        """As many weights, to within half a block where blocks differ in size."""
        alive = self.alive(mask)
        none = {n: torch.zeros_like(m) for n, m in alive.items()}

        def weights(units: Mask) -> int:
            return sum(int(m.sum()) * (mask[n].numel() // m.numel()) for n, m in units.items())

        target = remaining({n: mask[n] for n in alive})
        return self.expand(as_many(scores, none, target, weights), mask)


def tiled(tensor: Tensor, rows: int, columns: int) -> Tensor:
    """(out, in, ...) as (out / rows, in / columns, weights of the block)."""
    out, inputs = tensor.shape[:2]
    blocks = tensor.reshape(out // rows, rows, inputs // columns, columns, -1)
    return blocks.movedim(1, 2).flatten(2)
