"""Zhou et al.'s mask-0 actions: what a pruned weight holds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lth.types import Mask, Weights

ZERO = "zero"

FILLS: dict[str, Callable[[Tensor, Tensor], Tensor] | None] = {
    ZERO: None,
    "initial": lambda i, f: i,
    "by_movement": lambda i, f: torch.where(f.abs() < i.abs(), torch.zeros_like(i), i),
}
"""From initial and final weights to what pruned ones hold (Zhou et al. 2019, section 4).

``initial`` freezes them at theta_0; ``by_movement`` does so with those whose
magnitude did not fall, and sets the others, which moved toward 0, to 0.
"""


def fill_of(
    rule: str, mask: Mask, initial: Weights, final: Callable[[], Weights]
) -> Weights | None:
    """What ``rule`` says for all weights of the masked layers; None for zeros."""
    act = FILLS[rule]
    if act is None:
        return None
    last = initial if rule == "initial" else final()
    return {n: act(initial[n], last[n]) for n in mask}


def held(fill: Weights, mask: Mask) -> dict[str, Tensor]:
    """The part of ``fill`` that pruned weights hold: 0 at survivors, no layers of zeros."""
    found = {n: torch.where(mask[n], torch.zeros_like(f), f) for n, f in fill.items()}
    return {n: f for n, f in found.items() if bool(f.any())}
