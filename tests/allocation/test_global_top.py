"""Global allocation: one ranking, one count."""

from __future__ import annotations

import pytest
import torch

from lth.allocation.global_top import GlobalTop

SCORES = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([[5.0, 6.0], [0.5, 7.0]])}
MASK = {n: torch.ones(s.shape, dtype=torch.bool) for n, s in SCORES.items()}


@pytest.mark.parametrize(
    ("rate", "times", "keep", "a", "b"),
    [
        (0.5, 1, None, [0, 0, 0, 1], [[1, 1], [0, 1]]),
        (0.5, 2, None, [0, 0, 0, 0], [[0, 1], [0, 1]]),
        (0.5, 1, 7, [1, 1, 1, 1], [[1, 1], [0, 1]]),
        (0.5, 1, 0, [0, 0, 0, 0], [[0, 0], [0, 0]]),
    ],
)
def test_layers_compete(
    rate: float, times: int, keep: int | None, a: list[int], b: list[list[int]]
) -> None:
    layers = {"a": "linear", "b": "output"}
    result = GlobalTop()(SCORES, MASK, layers=layers, rate=rate, times=times, keep=keep)
    assert result["a"].int().tolist() == a
    assert result["b"].int().tolist() == b


def test_the_rate_is_of_the_survivors() -> None:
    """Half of 6 survivors are 3; half of all 8 positions would be 4 pruned, 2 left."""
    mask = {"a": torch.tensor([True, True, False, False]), "b": MASK["b"]}
    layers = {"a": "linear", "b": "output"}
    result = GlobalTop()(SCORES, mask, layers=layers, rate=0.5, times=1, keep=None)
    assert result["a"].int().tolist() == [0, 0, 0, 0]
    assert result["b"].int().tolist() == [[1, 1], [0, 1]]
