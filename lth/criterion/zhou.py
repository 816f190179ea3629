"""The mask criteria of Zhou et al. (2019): what the weights were, and what they became."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.gradient import Batches, Forward
from lth.history import History
from lth.option import one_of
from lth.types import Mask, Scores

RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "large_final": lambda i, f: f.abs(),
    "small_final": lambda i, f: -f.abs(),
    "large_init": lambda i, f: i.abs(),
    "small_init": lambda i, f: -i.abs(),
    "large_init_large_final": lambda i, f: torch.minimum(i.abs(), f.abs()),
    "small_init_small_final": lambda i, f: -torch.maximum(i.abs(), f.abs()),
    "magnitude_increase": lambda i, f: f.abs() - i.abs(),
    "movement": lambda i, f: (f - i).abs(),
}
"""From initial and final weights to scores."""


@dataclass(frozen=True, kw_only=True)
class Zhou:
    """Scores of (w_i, w_f): weights at initialisation and of the scored state.

    ``rule`` is ``large_final`` abs(w_f), ``small_final``, ``large_init``,
    ``small_init``, ``large_init_large_final`` min(a abs(w_f), abs(w_i)),
    ``small_init_small_final`` -max(a abs(w_f), abs(w_i)), ``magnitude_increase``
    abs(w_f) - abs(w_i), or ``movement`` abs(w_f - w_i). The factor a brings the
    mean magnitude of a layer's survivors at the end to that at the start.
    ``same_sign``: weights whose sign changed come after all others.
    """

    rule: str = "magnitude_increase"
    same_sign: bool = False

    def __post_init__(self) -> None:
        one_of("rule", self.rule, RULES)

    def __call__(
        self,
        history: History,
        mask: Mask,
        *,
        forward: Forward,
        batches: Batches,
        generator: torch.Generator,
    ) -> Scores:
        start, end = history.initial.weights, history.scored.weights
        scores = {n: self.score(start[n], end[n], kept) for n, kept in mask.items()}
        if not self.same_sign:
            return scores
        return behind(scores, {n: start[n].sign() != end[n].sign() for n in mask})

    def score(self, initial: Tensor, final: Tensor, kept: Tensor) -> Tensor:
        """The scores of one layer, whatever the signs."""
        scaled = final
        if self.rule in ("large_init_large_final", "small_init_small_final"):
            mean = final[kept].abs().mean()
            scaled = final * (initial[kept].abs().mean() / mean) if mean > 0 else final
        return RULES[self.rule](initial, scaled)


def behind(scores: Scores, which: Mask) -> Scores:
    """``which`` of them below all others of all layers, in their own order: counts may reach them.

    In float64, where lowering them makes no two equal.
    """
    wide = {n: s.double() for n, s in scores.items()}
    span = 2 * max(float(s.abs().max()) for s in wide.values()) + 1
    return {n: torch.where(which[n], s - span, s) for n, s in wide.items()}
