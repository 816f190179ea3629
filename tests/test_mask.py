"""Mask algebra: exact counts under ties and zeros, nesting, ranks in the scores' own dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import mask
from lth.allocation.budget import pruned
from lth.types import TrainState


def one(values: list[float], dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values, dtype=dtype)}


def kept(result: dict[str, torch.Tensor]) -> list[int]:
    return torch.cat([m.flatten() for m in result.values()]).int().tolist()


def test_keeps_the_highest_scores() -> None:
    alive = {"w": torch.ones(4, dtype=torch.bool)}
    assert kept(mask.keep_top(one([0.1, 0.4, 0.3, 0.2]), alive, 2)) == [0, 1, 1, 0]


def test_ties_and_zeros_go_to_the_lower_index_with_exact_counts() -> None:
    alive = {"w": torch.ones(6, dtype=torch.bool)}
    assert kept(mask.keep_top(one([0, 0, 0, 0, 0, 0]), alive, 3)) == [1, 1, 1, 0, 0, 0]
    assert kept(mask.keep_top(one([1, 2, 1, 2, 1, 1]), alive, 4)) == [1, 1, 1, 1, 0, 0]


def test_ties_between_layers_go_to_the_earlier_layer() -> None:
    alive = {n: torch.ones(2, dtype=torch.bool) for n in ("a", "b")}
    scores = {n: torch.ones(2) for n in ("a", "b")}
    assert kept(mask.keep_top(scores, alive, 3)) == [1, 1, 1, 0]


def test_only_survivors_count() -> None:
    # Were pruned positions ranked too, the highest score would come back.
    alive = {"w": torch.tensor([False, True, True, True])}
    assert kept(mask.keep_top(one([9.0, 0.1, 0.2, 0.3]), alive, 2)) == [0, 0, 1, 1]


def test_scores_are_ranked_in_their_own_dtype() -> None:
    alive = {"w": torch.ones(3, dtype=torch.bool)}
    # 1 + 1e-12 is 1 in float32.
    assert kept(mask.keep_top(one([1.0, 1 + 1e-12, 0.0], torch.float64), alive, 1)) == [0, 1, 0]


def test_refuses_nan_and_impossible_counts() -> None:
    alive = {"w": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(ValueError, match="not a number"):
        mask.keep_top(one([float("nan"), 1.0]), alive, 1)
    with pytest.raises(ValueError, match="cannot keep 3 of 2"):
        mask.keep_top(one([1.0, 1.0]), alive, 3)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.sampled_from([0.0, 0.5, -0.5, 1.0]), min_size=2, max_size=60),
    rate=st.floats(0.01, 0.9),
)
def test_twenty_rounds_prune_exactly_and_nest(values: list[float], rate: float) -> None:
    weights = {"a": torch.tensor(values), "b": torch.tensor(values[::-1])}
    parent = mask.full(weights, weights)
    for _ in range(20):
        scores = {n: w.abs() for n, w in weights.items()}
        survivors = mask.remaining(parent)
        gone = round(rate * survivors)
        child = mask.keep_top(scores, parent, survivors - pruned(survivors, rate))
        assert mask.remaining(child) == survivors - gone
        assert mask.nested(child, parent)
        parent = child


def test_applying_gives_positive_zeros_and_leaves_the_input_alone() -> None:
    weights = {"w": torch.tensor([-1.0, 2.0]), "b": torch.tensor([3.0])}
    result = mask.apply(weights, {"w": torch.tensor([False, True])})
    assert result["w"].tolist() == [0.0, 2.0]
    assert not torch.signbit(result["w"]).any()
    result["b"].zero_()
    assert weights["b"].item() == 3.0
    assert weights["w"].tolist() == [-1.0, 2.0]


def test_applying_to_a_state_masks_its_optimizer_slots_but_not_its_counters() -> None:
    state = TrainState(
        step=3,
        weights={"w": torch.ones(2)},
        buffers={"mean": torch.ones(2)},
        optimizer={"w/exp_avg": torch.ones(2), "w/step": torch.tensor(3.0)},
    )
    result = mask.apply_state(state, {"w": torch.tensor([True, False])})
    assert result.weights["w"].tolist() == [1.0, 0.0]
    assert result.buffers["mean"].tolist() == [1.0, 1.0]
    assert result.optimizer is not None
    assert result.optimizer["w/exp_avg"].tolist() == [1.0, 0.0]
    assert result.optimizer["w/step"].item() == 3.0


def test_overlap_and_density_by_hand() -> None:
    a = {"w": torch.tensor([True, True, False, False])}
    b = {"w": torch.tensor([True, False, True, False])}
    assert mask.overlap(a, b) == {"w": pytest.approx(1 / 3)}
    assert mask.density(a) == 0.5
    assert not mask.nested(a, b)
