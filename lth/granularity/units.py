"""Whole neurons, filters and channels, coupled as the network couples them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from lth.coupling import Group, coupled, mask_of
from lth.granularity.draw import as_many
from lth.mask import keep_top, permuted, prunable, remaining
from lth.option import one_of
from lth.protocol import Allocation
from lth.types import Mask, Scores

REDUCTIONS = ("sum", "mean", "norm")


@dataclass(frozen=True, kw_only=True)
class Units:
    """Structured pruning: a unit goes with all that hangs on it (Li et al. 2017; Fang et al. 2023).

    The mask of a unit covers its weights, its bias, its BatchNorms' weight and
    bias, and the weights that read it, so that it is really gone. Units that the
    network adds together (residual connections) come and go together. Where a
    layer is excluded, or is the output layer, its own units stay; of each set of
    coupled units at least one does, the best.

    ``reduce``: a unit's score is the ``sum``, ``mean`` or ``norm`` (root of the
    sum of squares) of the scores of its live weights, rows and columns of Linear
    and Conv layers; a weight between two units of one set counts for both.
    Budgets count units: a rate p prunes a share p of them, which is more than p
    of the weights. A set goes by the type and name of its first layer.
    """

    reduce: str = "sum"

    def __post_init__(self) -> None:
        one_of("reduce", self.reduce, REDUCTIONS)

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> CoupledUnits:
        output = {n for n, kind in layers.items() if kind == "output"}
        groups = {
            n: g
            for n, g in coupled(module, input_shape).items()
            if g.read and not {*g.layers} & (excluded | output)
        }
        if not groups:
            raise ValueError("no layer's units may be pruned: all are the output's or excluded")
        return CoupledUnits(
            layers={n: layers[n] for n in groups},
            excluded=frozenset(layers) - {n for g in groups.values() for n in g.layers},
            scored=frozenset(layers),
            groups=groups,
            shapes={n: p.shape for n, p in module.named_parameters()},
            reduce=self.reduce,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class CoupledUnits:
    """The sets of coupled units that may be pruned, by their first layer."""

    layers: Mapping[str, str]
    excluded: frozenset[str]
    scored: frozenset[str]
    groups: Mapping[str, Group]
    shapes: Mapping[str, torch.Size]
    reduce: str
    fixed: ClassVar[bool] = False
    weights_per_unit: ClassVar[int | None] = None
    bypassed: ClassVar[frozenset[str]] = frozenset()

    def alive(self, mask: Mask) -> Mask:
        return {n: group.alive(mask) for n, group in self.groups.items()}

    def score(self, scores: Scores, mask: Mask) -> Scores:
        return {n: self._score(group, scores, mask) for n, group in self.groups.items()}

    def _score(self, group: Group, scores: Scores, mask: Mask) -> Tensor:
        """In float64, so that many weights are summed as exactly as they were scored."""
        total = torch.zeros(group.size, dtype=torch.float64)
        count = torch.zeros_like(total)
        for place in (p for p in group.places if p.tensor in scores):
            own, live = scores[place.tensor].double().cpu(), mask[place.tensor].cpu()
            own = torch.where(live, own, torch.zeros_like(own))
            owned = (place.owner >= 0).nonzero().flatten()
            own = own.square() if self.reduce == "norm" else own
            for sums, values in ((total, own), (count, live.double())):
                by_index = values.movedim(place.dim, 0).flatten(1).sum(1)
                sums.index_add_(0, place.owner[owned], by_index[owned])
        if self.reduce == "mean":
            return total / count.clamp_min(1)
        return total.sqrt() if self.reduce == "norm" else total

    def expand(self, alive: Mask, mask: Mask) -> dict[str, Tensor]:
        whole = {n: torch.ones_like(m) for n, m in prunable(mask).items()}
        return whole | mask_of(self.groups, alive, self.shapes)

    def spending(self, allocation: Allocation) -> Allocation:
        """``allocation``, but a set that it empties keeps its best unit."""

        def spend(
            scores: Scores,
            mask: Mask,
            *,
            layers: Mapping[str, str],
            rate: float,
            times: int,
            keep: int | None,
        ) -> Mask:
            kept = allocation(scores, mask, layers=layers, rate=rate, times=times, keep=keep)
            best = self._best(scores, mask)
            return {n: k if bool(k.any()) else best[n] for n, k in kept.items()}

        return spend

    def _best(self, scores: Scores, alive: Mask) -> dict[str, Tensor]:
        """One unit of each set."""
        best: dict[str, Tensor] = {}
        for name, units in alive.items():
            best |= keep_top(scores, {name: units}, 1)
        return best

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask:
        return self.expand(permuted(self.alive(mask), generator), mask)

    def draw(self, scores: Scores, mask: Mask) -> Mask:
        """As many weights to within one unit, at least one unit of each set."""
        everything = {n: torch.ones_like(m) for n, m in self.alive(mask).items()}

        def weights(units: Mask) -> int:
            return remaining(prunable(self.expand(units, mask)))

        safe = self._best(scores, everything)
        return self.expand(as_many(scores, safe, remaining(prunable(mask)), weights), mask)
