"""N:M sparsity: the fine-grained pattern that sparse tensor cores take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lth.option import at_least
from lth.protocol import Allocation
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class NM:
    """N kept of every M consecutive weights along the input channels (Mishra et al. 2021).

    Per output and, for convolutions, per kernel position; for Linear along
    ``in_features``. Each group keeps its ``n`` highest scores, ties go to the
    lower index. A layer whose input channels (per group of a grouped
    convolution) are not divisible by ``m`` stays whole. The pattern fixes the
    density: allocation and rate have no say, and there is one level.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        at_least("m", self.m, 2)
        if not 1 <= self.n < self.m:
            raise ValueError(f"n: got {self.n}, allowed: 1 to {self.m - 1} (below m)")

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> Pattern:
        channels = {n: p.shape[1] for n, p in module.named_parameters() if n in layers}
        fit = {n: k for n, k in layers.items() if n not in excluded and not channels[n] % self.m}
        if not fit:
            counts = ", ".join(f"{n} {channels[n]}" for n in layers if n not in excluded)
            raise ValueError(f"m: got {self.m}, allowed: a divisor of input channels ({counts})")
        return Pattern(layers=fit, excluded=frozenset(layers) - fit.keys(), n=self.n, m=self.m)


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """The layers that the pattern fits, and the pattern."""

    layers: Mapping[str, str]
    excluded: frozenset[str]
    n: int
    m: int
    fixed: ClassVar[bool] = True
    weights_per_unit: ClassVar[int | None] = None
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
        """The pattern itself: it leaves nothing to allocate."""
        return self._keep

    def _keep(
        self,
        scores: Scores,
        mask: Mask,
        *,
        layers: Mapping[str, str],
        rate: float,
        times: int,
        keep: int | None,
    ) -> Mask:
        return {n: n_of_m(scores[n], kept, self.n, self.m) for n, kept in mask.items()}

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask:
        """Each group's weights permuted among themselves: the order of uniform draws."""
        shuffled = {}
        for name, kept in self.alive(mask).items():
            order = torch.rand(kept.shape, generator=generator, dtype=torch.float64)
            own, places = grouped(kept, self.m), grouped(order, self.m).argsort(-1)
            shuffled[name] = ungrouped(own.gather(-1, places), kept.ndim)
        return self.expand(shuffled, mask)

    def draw(self, scores: Scores, mask: Mask) -> Mask:
        alive = self.alive(mask)
        drawn = {
            n: n_of_m(scores[n], torch.ones_like(kept), self.n, self.m) for n, kept in alive.items()
        }
        return self.expand(drawn, mask)


def grouped(tensor: Tensor, m: int) -> Tensor:
    """(out, in, ...) as (out, ..., in / m, m)."""
    moved = tensor.movedim(1, -1)
    return moved.reshape(*moved.shape[:-1], moved.shape[-1] // m, m)


def ungrouped(groups: Tensor, ndim: int) -> Tensor:
    """What ``grouped`` was given, of ``ndim`` dimensions."""
    return groups.flatten(ndim - 1).movedim(-1, 1).contiguous()


def n_of_m(scores: Tensor, kept: Tensor, n: int, m: int) -> Tensor:
    """The mask of a layer: of each group the ``n`` highest scores among what ``kept`` keeps."""
    if bool(scores[kept].isnan().any()):
        raise ValueError("a score is not a number, so weights cannot be ranked")
    alive = grouped(kept, m)
    # Two stable sorts: by score, then survivors before the rest.
    order = torch.argsort(grouped(scores, m), dim=-1, descending=True, stable=True)
    living = alive.gather(-1, order).int()
    order = order.gather(-1, torch.argsort(living, dim=-1, descending=True, stable=True))
    chosen = torch.zeros_like(alive).scatter(-1, order[..., :n], True)
    return ungrouped(chosen & alive, kept.ndim)
