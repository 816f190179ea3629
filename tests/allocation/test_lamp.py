"""LAMP among weights of which some went in an earlier scoring step."""

from __future__ import annotations

from typing import Any

import torch

from lth import mask as masks
from lth.allocation.lamp import Lamp, lamp


def test_what_has_gone_stays_behind_and_counts_for_nothing() -> None:
    """Survivors 3, 2 and 1: 9/9, 4/13, 1/14, whatever stands beside them."""
    gone = torch.tensor([3.0, 1.0, 2.0, -torch.inf])
    scores = lamp(gone, torch.ones(4, dtype=torch.bool))
    expected = torch.tensor([1.0, 1 / 14, 4 / 13, -torch.inf], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)


def test_magnitudes_scored_in_steps_leave_no_layer_empty(
    make_search: Any, make_workshop: Any
) -> None:
    masks_of = {}
    for steps in (1, 5):
        search = make_search(levels=1, score_steps=steps, allocation=Lamp())
        _, (ticket,) = search.run(make_workshop())
        masks_of[steps] = ticket.training.mask
    assert masks.remaining(masks_of[1]) == masks.remaining(masks_of[5])
    assert all(int(m.sum()) > 0 for m in masks_of[5].values())
