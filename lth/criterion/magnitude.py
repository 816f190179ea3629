"""Magnitude pruning: the weights that training left smallest go first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lth.history import History
from lth.types import Mask, Scores


def magnitude(
    history: History,
    mask: Mask,
    *,
    forward: Callable[..., Tensor],
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    generator: torch.Generator,
) -> Scores:
    """``abs(w)`` of the scored state (Han et al. 2015; Frankle & Carbin 2019)."""
    return {n: history.scored.weights[n].abs() for n in mask}
