"""Random pruning: the iterative control of every criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lth.history import History
from lth.types import Mask, Scores


def random(
    history: History,
    mask: Mask,
    *,
    forward: Callable[..., Tensor],
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
    generator: torch.Generator,
) -> Scores:
    """Independent uniform scores in [0, 1) in float64, so that ties do not happen."""
    return {
        n: torch.rand(m.shape, generator=generator, dtype=torch.float64) for n, m in mask.items()
    }
