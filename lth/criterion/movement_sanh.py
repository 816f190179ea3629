"""Movement pruning: keep the weights that training moves away from zero."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lth.event.movement import Movement
from lth.gradient import Batches, Forward
from lth.history import History
from lth.protocol import Event
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class MovementSanh:
    """``-sum of w g`` over the parent's updates up to the scored state (Sanh et al. 2020).

    Positive where gradient descent moves a weight away from zero. Watched while
    the parent is trained, on the batches that train it (see ``Movement``); a
    parent that was stored without is replayed. Scores may be negative.
    """

    def watches(self, prune_at: str | int) -> Mapping[str, Event]:
        """What has to watch the parent's training."""
        watching = Movement(at=prune_at)
        return {watching.name: watching}

    def __call__(
        self,
        history: History,
        mask: Mask,
        *,
        forward: Forward,
        batches: Batches,
        generator: torch.Generator,
    ) -> Scores:
        sums = history.watched(Movement(at=history.prune_at).name).weights
        if not any(bool(sums[n].any()) for n in mask):
            raise ValueError(
                "movement_sanh: got a state that no update came before, allowed: a later prune_at"
            )
        return {n: sums[n] for n in mask}
