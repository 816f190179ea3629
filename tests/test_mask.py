"""Mask algebra: exact counts under ties and zeros, nesting, and exact zeros."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lth import mask as masks
from lth.allocation.budget import pruned
from lth.types import TrainState

settings.register_profile("mask", max_examples=40, deadline=None, derandomize=True, database=None)
settings.load_profile("mask")


def bits(*values: int) -> Tensor:
    return torch.tensor(values).bool()


def kept(scores: list[float], alive: Tensor, count: int, dtype: Any = torch.float32) -> list[int]:
    """What keep_top keeps of one layer, as indices."""
    result = masks.keep_top({"w": torch.tensor(scores, dtype=dtype)}, {"w": alive}, count)
    return result["w"].nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("scores", "alive", "count", "expected"),
    [
        ([3, 1, 2, 4], bits(1, 1, 1, 1), 2, [0, 3]),
        ([1, 1, 1, 1], bits(1, 1, 1, 1), 2, [0, 1]),  # ties go to the lower index
        ([2, 1, 1, 1, 2], bits(1, 1, 1, 1, 1), 3, [0, 1, 4]),
        ([0, 0, 0, 5], bits(1, 1, 1, 1), 2, [0, 3]),  # a zero is a score like any other
        ([0, 0, 0, 0], bits(1, 1, 1, 1), 1, [0]),
        ([9, 1, 9, 2, 3], bits(0, 1, 0, 1, 1), 2, [3, 4]),  # the dead stay dead
        ([9, 0, 9, 0], bits(0, 1, 0, 1), 2, [1, 3]),
        ([-1, -5, -2], bits(1, 1, 1), 1, [0]),  # scores rank as they are, without abs
        ([-math.inf, 0, math.inf], bits(1, 1, 1), 2, [1, 2]),
        ([1, 2, 3], bits(1, 1, 1), 0, []),
        ([1, 2, 3], bits(1, 1, 1), 3, [0, 1, 2]),
        ([math.nan, 1, 2], bits(0, 1, 1), 1, [2]),  # nobody ranks a dead weight
    ],
)
def test_keep_top(scores: list[float], alive: Tensor, count: int, expected: list[int]) -> None:
    assert kept(scores, alive, count) == expected


def test_scores_are_ranked_in_their_own_dtype() -> None:
    close = [1.0, 1.0 + 1e-12]
    assert torch.tensor(close)[0] == torch.tensor(close)[1]  # float32 cannot tell them apart
    assert kept(close, bits(1, 1), 1, torch.float64) == [1]
    assert kept(close, bits(1, 1), 1, torch.float32) == [0]
    huge = [2.0**60, 2.0**60 + 2.0**10]
    assert kept(huge, bits(1, 1), 1, torch.float64) == [1]


def test_layers_compete_and_tie_in_the_order_of_the_mask() -> None:
    mask = {"b": bits(1, 1), "a": torch.ones(2, 2, dtype=torch.bool)}
    scores = {"a": torch.tensor([[1.0, 5.0], [1.0, 1.0]]), "b": torch.tensor([0.5, 1.0])}
    result = masks.keep_top(scores, mask, 3)
    assert result["b"].tolist() == [False, True]
    assert result["a"].tolist() == [[True, True], [False, False]]
    assert list(result) == ["b", "a"]


def test_keep_top_modifies_nothing() -> None:
    scores, alive = torch.tensor([3.0, 1.0, 2.0]), bits(1, 0, 1)
    masks.keep_top({"w": scores}, {"w": alive}, 1)
    assert scores.tolist() == [3, 1, 2]
    assert alive.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("scores", "count", "message"),
    [
        ([1, 2, 3], 3, "cannot keep 3 of 2"),
        ([1, 2, 3], -1, "cannot keep -1 of 2"),
        ([1, math.nan, 3], 1, "not a number"),
        ([1, 2], 1, r"scores of w: got \(2,\), allowed: shape \(3,\)"),
        ([1, 2, 3, 4], 1, r"got \(4,\)"),
    ],
)
def test_keep_top_refuses(scores: list[float], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kept(scores, bits(1, 1, 0), count)


def test_keep_top_refuses_a_layer_without_scores() -> None:
    with pytest.raises(ValueError, match="scores of w: got none"):
        masks.keep_top({"v": torch.ones(3)}, {"w": bits(1, 1, 1)}, 1)


layers = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(-2, 2)), min_size=1, max_size=8),
    min_size=1,
    max_size=3,
)


@given(layers=layers, share=st.floats(0, 1))
def test_keep_top_against_a_sort(layers: list[list[tuple[bool, int]]], share: float) -> None:
    """Against sorting (score, position) in plain Python; few distinct scores, so many ties."""
    mask = {str(i): torch.tensor([a for a, _ in layer]) for i, layer in enumerate(layers)}
    scores = {str(i): torch.tensor([float(s) for _, s in layer]) for i, layer in enumerate(layers)}
    flat = [pair for layer in layers for pair in layer]
    alive = [i for i, (a, _) in enumerate(flat) if a]
    count = round(share * len(alive))
    best = set(sorted(alive, key=lambda i: (-flat[i][1], i))[:count])
    result = masks.keep_top(scores, mask, count)
    assert torch.cat(list(result.values())).tolist() == [i in best for i in range(len(flat))]
    assert masks.remaining(result) == count
    assert masks.nested(result, mask)


def sorted_top(scores: dict[str, Tensor], mask: dict[str, Tensor], count: int) -> Tensor:
    """What ``keep_top`` is to keep, as one vector, by a stable sort of the survivors."""
    alive = torch.cat([m.flatten() for m in mask.values()])
    where = alive.nonzero().flatten()
    values = torch.cat([scores[n].flatten() for n in mask])[where]
    chosen = torch.zeros_like(alive)
    chosen[where[torch.argsort(values, descending=True, stable=True)[:count]]] = True
    return chosen


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    density=st.floats(0, 1),
    share=st.floats(0, 1),
    kind=st.sampled_from(["noise", "few", "ends", "falling"]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=300)
def test_keep_top_is_a_stable_sort(
    sizes: list[int], density: float, share: float, kind: str, dtype: torch.dtype, seed: int
) -> None:
    """Ties, both zeros, both infinities, every dtype; what is dead may be no number."""
    draw = torch.Generator().manual_seed(seed)
    mask, scores = {}, {}
    for layer, size in enumerate(sizes):
        noise = torch.randn(size, generator=draw)
        alive = torch.rand(size, generator=draw) < density
        values = {
            "noise": noise,
            "few": noise.round(),  # some are 0.0, some -0.0
            "ends": torch.where(noise.abs() > 1, noise * torch.inf, noise.round()),
            "falling": torch.arange(float(size)).flip(0),
        }[kind]
        mask[str(layer)] = alive
        scores[str(layer)] = torch.where(alive, values, torch.nan).to(dtype)
    count = round(share * masks.remaining(mask))
    result = masks.keep_top(scores, mask, count)
    assert torch.equal(torch.cat(list(result.values())), sorted_top(scores, mask, count))
    assert masks.remaining(result) == count


@given(
    size=st.integers(1, 400),
    rate=st.floats(0.01, 0.9),
    ties=st.sampled_from(["equal", "zeros", "few", "none"]),
    seed=st.integers(0, 9),
)
@settings(max_examples=15)
def test_twenty_rounds(size: int, rate: float, ties: str, seed: int) -> None:
    """Each round prunes round(p n) of the n survivors, whatever ties there are."""
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    scores = {
        "equal": torch.ones(size),
        "zeros": torch.where(noise > 1, noise, torch.zeros(size)),
        "few": noise.round(),
        "none": noise,
    }[ties]
    mask = {"w": torch.ones(size, dtype=torch.bool)}
    for _ in range(20):
        n = masks.remaining(mask)
        child = masks.keep_top({"w": scores}, mask, n - pruned(n, rate))
        assert n - masks.remaining(child) == round(rate * n)
        assert masks.nested(child, mask)
        survivors, dead = scores[child["w"]], scores[mask["w"] & ~child["w"]]
        if survivors.numel() and dead.numel():
            assert survivors.min() >= dead.max()
        mask = child


def test_apply_gives_exact_zeros_and_leaves_the_rest() -> None:
    weights = {"w": torch.tensor([-1.5, 2.0, -3.0]), "b": torch.tensor([-0.5])}
    result = masks.apply(weights, {"w": bits(0, 1, 1)})
    assert result["w"].tolist() == [0.0, 2.0, -3.0]
    assert not result["w"].signbit()[0]  # 0.0, not -0.0
    assert result["b"].tolist() == [-0.5]
    result["w"].zero_()
    result["b"].zero_()
    assert weights["w"].tolist() == [-1.5, 2.0, -3.0]
    assert weights["b"].tolist() == [-0.5]


def test_apply_clears_what_is_not_a_number() -> None:
    assert masks.apply({"w": torch.tensor([math.nan, math.inf, 1.0])}, {"w": bits(0, 0, 1)})[
        "w"
    ].tolist() == [0.0, 0.0, 1.0]


def test_apply_state_masks_the_slots_too() -> None:
    ones = torch.ones(2)
    state = TrainState(
        step=7,
        weights={"fc.weight": ones, "fc.bias": ones},
        buffers={"mean": ones},
        optimizer={
            "fc.weight/exp_avg": ones,
            "fc.weight/step": torch.tensor(3.0),
            "fc.bias/exp_avg": ones,
        },
    )
    result = masks.apply_state(state, {"fc.weight": bits(1, 0)})
    assert result.step == 7
    assert {n: t.tolist() for n, t in result.weights.items()} == {
        "fc.weight": [1, 0],
        "fc.bias": [1, 1],
    }
    assert result.optimizer is not None
    assert {n: t.tolist() for n, t in result.optimizer.items()} == {
        "fc.weight/exp_avg": [1, 0],
        "fc.weight/step": 3,
        "fc.bias/exp_avg": [1, 1],
    }
    for part in (result.weights, result.buffers, result.optimizer):
        for tensor in part.values():
            tensor.zero_()
    assert ones.tolist() == [1, 1]  # all copies
    assert masks.apply_state(TrainState(step=0, weights={}, buffers={}), {}).optimizer is None


def test_measures() -> None:
    weights = {"a": torch.zeros(2, 2), "b": torch.zeros(1, 4), "c": torch.zeros(3)}
    dense = masks.full(weights, ["a", "b"])
    assert {n: (m.dtype, tuple(m.shape), m.all().item()) for n, m in dense.items()} == {
        "a": (torch.bool, (2, 2), True),
        "b": (torch.bool, (1, 4), True),
    }
    mask = {"a": torch.tensor([[True, False], [True, True]]), "b": bits(0, 0, 0, 1)[None]}
    assert (masks.remaining(mask), masks.size(mask), masks.density(mask)) == (4, 8, 0.5)
    assert masks.layer_densities(mask) == {"a": 0.75, "b": 0.25}
    assert masks.nested(mask, dense)
    assert not masks.nested(dense, mask)
    assert masks.nested(mask, mask)
    assert not masks.nested({"a": mask["a"]}, mask)


def test_biases_and_norms_do_not_count() -> None:
    """A mask of whole units covers them; density is that of Linear and Conv weights."""
    dense = {"a": bits(1, 1, 1, 1).view(2, 2)}
    units = {"a": bits(1, 1, 0, 0).view(2, 2), "a.bias": bits(1, 0)}
    assert list(masks.prunable(units)) == ["a"]
    assert (masks.remaining(units), masks.density(units)) == (3, 0.5)
    assert masks.layer_densities(units) == {"a": 0.5}
    assert masks.nested(units, dense) and masks.nested(units, units)
    assert not masks.nested(dense, units), "what a child does not cover is whole in it"
    assert not masks.nested({**units, "a.bias": bits(1, 1)}, units)


def test_permuted_keeps_the_entries_of_each_tensor() -> None:
    mask = {"a": torch.arange(6).view(2, 3), "b": torch.arange(4)}
    shuffled = masks.permuted(mask, torch.Generator().manual_seed(0))
    for name, own in mask.items():
        assert shuffled[name].shape == own.shape and not torch.equal(shuffled[name], own)
        assert torch.equal(shuffled[name].flatten().sort().values, own.flatten())


def test_overlap() -> None:
    a = {"x": bits(1, 1, 0, 0), "y": bits(0, 0), "z": bits(1, 0)}
    b = {"x": bits(0, 1, 1, 0), "y": bits(0, 0), "z": bits(0, 1)}
    assert masks.overlap(a, b) == {"x": 1 / 3, "y": 1.0, "z": 0.0}


def test_algebra_worked_by_hand() -> None:
    a = {"x": bits(1, 1, 0, 0), "y": bits(1, 0)}
    b = {"x": bits(1, 0, 1, 0), "y": bits(0, 0)}
    c = {"x": bits(0, 1, 0, 0), "y": bits(0, 1)}

    def listed(mask: Any) -> dict[str, list[int]]:
        return {n: m.int().tolist() for n, m in mask.items()}

    assert listed(masks.union(a, b)) == {"x": [1, 1, 1, 0], "y": [1, 0]}
    assert listed(masks.union(a, b, c)) == {"x": [1, 1, 1, 0], "y": [1, 1]}
    assert listed(masks.intersection(a, b)) == {"x": [1, 0, 0, 0], "y": [0, 0]}
    assert listed(masks.intersection(a, b, c)) == {"x": [0, 0, 0, 0], "y": [0, 0]}
    assert listed(masks.difference(a, b)) == {"x": [0, 1, 0, 0], "y": [1, 0]}
    assert listed(masks.difference(a, b, c)) == {"x": [0, 0, 0, 0], "y": [1, 0]}
    assert listed(masks.complement(a)) == {"x": [0, 0, 1, 1], "y": [0, 1]}
    # De Morgan, and the arguments are as they were.
    both = masks.complement(masks.union(a, b))
    assert listed(both) == listed(masks.intersection(masks.complement(a), masks.complement(b)))
    assert listed(a) == {"x": [1, 1, 0, 0], "y": [1, 0]}
    assert masks.union(a)["x"] is not a["x"]


@pytest.mark.parametrize("how", [masks.union, masks.intersection, masks.difference])
def test_masks_of_different_networks_do_not_combine(how: Any) -> None:
    a = {"x": bits(1, 1), "y": bits(1)}
    b = {"x": bits(1, 1, 0), "z": bits(1)}
    fault = r"at x \(\[2\], \[3\]\), y \(\[1\], nothing\), z \(nothing, \[1\]\)"
    with pytest.raises(ValueError, match=fault):
        how(a, b)
