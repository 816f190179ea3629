"""Layer-wise allocation: every layer is pruned by its own rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from lth.allocation.budget import pruned, solve
from lth.layer import matches, select
from lth.mask import keep_top
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Layerwise:
    """Each layer keeps its highest scores (Frankle & Carbin 2019, LeNet and Conv-2/4/6).

    ``rates`` gives rates by layer type (``conv``, ``linear``, ``output``) or
    name (with ``*``); of several patterns that mean a layer the last one
    holds. Other layers take the schedule's rate, the output layer ``output``
    times it (the 2019 paper's half).
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    output: float = 0.5
    by_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.output <= 1:
            raise ValueError(f"output: got {self.output}, allowed: 0 to 1 (times the rate)")
        for pattern, rate in self.rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"rates.{pattern}: got {rate}, allowed: 0 <= rate < 1")

    def layer_rates(self, layers: Mapping[str, str], rate: float) -> dict[str, float]:
        """The rate of each layer; ValueError for a pattern that means none."""
        try:
            select(layers, self.rates)
        except ValueError as error:
            raise ValueError(f"rates: {error}") from None
        result = {}
        for name, kind in layers.items():
            result[name] = self.output * rate if kind == "output" else rate
            for pattern, own in self.rates.items():
                if matches(name, kind, pattern):
                    result[name] = own
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
        rates = self.layer_rates(layers, rate)
        survivors = {n: int(m.sum()) for n, m in mask.items()}
        if keep is None:
            counts = {n: s - pruned(s, rates[n], times) for n, s in survivors.items()}
        else:
            counts = solve(survivors, {n: rates[n] for n in mask}, keep)
        result: dict[str, Tensor] = {}
        for name in mask:
            result |= keep_top(scores, {name: mask[name]}, counts[name])
        return result
