"""Densities that are given, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lth.counts import Counts, counts_of, share
from lth.layer import matches, select
from lth.mask import size
from lth.types import Mask, Scores

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class Given:
    """Each layer keeps ``round(density * size)`` of its weights, its highest scores.

    ``densities`` gives them by layer type (``conv``, ``linear``, ``output``) or
    name (with ``*``), as fractions of all weights of the layer; of several
    patterns that mean a layer the last one holds, and every layer needs one. A
    layer that has fewer survivors keeps those. The schedule's rate has no say, so
    there is one level. On the way of ``score_steps``, and of finders that prune in
    steps, every layer has gone the same part of its way.
    """

    densities: Mapping[str, float]

    def __post_init__(self) -> None:
        for pattern, density in self.densities.items():
            if not 0 < density <= 1:
                raise ValueError(f"densities.{pattern}: got {density}, allowed: 0 < density <= 1")

    def check(self, search: Search) -> None:
        """One level, no other densities, and one for every layer."""
        if search.levels > 1:
            raise ValueError(
                f"levels: got {search.levels}, allowed: 0 or 1 (allocation=given: its densities "
                "are the same at every level, so that further levels would prune nothing)"
            )
        density = search.schedule(1).density if search.levels else None
        if density is not None:
            raise ValueError(
                f"schedule.densities: got {density}, allowed: a schedule of rates "
                "(allocation=given has a density for every layer)"
            )
        try:
            self.layer_densities(search.grain.layers)
        except ValueError as error:
            raise ValueError(f"allocation.{error}") from None

    def layer_densities(self, layers: Mapping[str, str]) -> dict[str, float]:
        """The density of each layer; ValueError for a pattern that means none, or a layer without.

        In the order of ``layers``.
        """
        try:
            select(layers, self.densities)
        except ValueError as error:
            raise ValueError(f"densities: {error}") from None
        result = {}
        for name, kind in layers.items():
            own = [d for pattern, d in self.densities.items() if matches(name, kind, pattern)]
            if not own:
                raise ValueError(
                    f"densities: got none for {name}, allowed: one for every layer "
                    "(as by a first pattern *)"
                )
            result[name] = own[-1]
        return result

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
        densities, survivors = self.layer_densities(layers), counts_of(mask)
        counts = {
            n: min(round(densities[n] * size({n: kept})), survivors[n]) for n, kept in mask.items()
        }
        if keep is not None and keep < sum(counts.values()):
            counts = share(counts, survivors, keep)
        spend = Counts(counts=counts)
        return spend(scores, mask, layers=layers, rate=rate, times=times, keep=keep)
