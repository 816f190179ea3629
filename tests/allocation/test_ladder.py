"""Densities of the published ladders, layer by layer, and how budgets are spent."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lth import mask
from lth.allocation.budget import pruned, solve
from lth.allocation.global_top import GlobalTop
from lth.allocation.layerwise import Layerwise
from lth.layer import kinds
from lth.model.conv import Conv2, Conv4, Conv6
from lth.model.lenet_300_100 import LeNet300100
from lth.schedule.geometric import Geometric
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets

LENET = (LeNet300100(input_shape=(1, 28, 28), num_classes=10), Layerwise())
TINY = ("conv", {"a": 40, "b": 10, "c": 6}, {"a": "conv", "b": "linear", "c": "output"})


def ladder(module, allocation, schedule, levels):
    """The masks of every level, with initial weights as scores."""
    layers = kinds(module)
    weights = {n: p.detach().abs() for n, p in module.named_parameters() if n in layers}
    masks = [mask.full(weights, layers)]
    for level in range(1, levels + 1):
        how = schedule(level)
        masks.append(
            allocation(
                weights, masks[how.parent], layers=layers, rate=how.rate, times=how.times, keep=None
            )
        )
    return masks


CONV = {"conv": 0.1, "linear": 0.2, "output": 0.1}


@pytest.mark.parametrize(
    ("module", "allocation", "rungs"),
    [
        (*LENET, {3: 51.3, 7: 21.1, 9: 13.5, 12: 7.0, 15: 3.6, 19: 1.5}),
        (Conv2(input_shape=(3, 32, 32), num_classes=10), Layerwise(rates=CONV), {11: 8.8, 14: 4.6}),
        (
            Conv4(input_shape=(3, 32, 32), num_classes=10),
            Layerwise(rates=CONV),
            {11: 11.1, 12: 9.2},
        ),
        # Frankle & Carbin print 26.4 and 15.1 for Conv-6, whose size they give as 1.7M.
        (
            Conv6(input_shape=(3, 32, 32), num_classes=10),
            Layerwise(rates={**CONV, "conv": 0.15}),
            {7: 26.6, 10: 15.3},
        ),
    ],
    ids=["lenet", "conv_2", "conv_4", "conv_6"],
)
def test_the_published_rungs(module, allocation, rungs) -> None:
    masks = ladder(module, allocation, Geometric(rate=0.2), max(rungs))
    for level, percent in rungs.items():
        assert 100 * mask.density(masks[level]) == pytest.approx(percent, abs=0.1)


def test_the_lenet_ladder_to_two_digits_and_its_layers_within_a_weight_a_level() -> None:
    module, allocation = LENET
    masks = ladder(module, allocation, Geometric(rate=0.2), 19)
    assert [round(100 * mask.density(masks[i]), 2) for i in (3, 15, 19)] == [51.28, 3.58, 1.49]
    survivors = {"fc1.weight": 235200, "fc2.weight": 30000, "fc3.weight": 1000}
    for child in masks[1:]:
        for name in survivors:
            rate = 0.1 if name == "fc3.weight" else 0.2
            survivors[name] -= round(rate * survivors[name])
            assert int(child[name].sum()) == survivors[name]
    for name, n in {"fc1.weight": 235200, "fc2.weight": 30000}.items():
        # Halves are rounded at every level, so the drift stays below 1 / (2 * 0.2).
        assert abs(int(masks[19][name].sum()) - n * 0.8**19) < 2.5


def test_one_shot_has_the_iterative_ladders_counts_within_rounding() -> None:
    module, allocation = LENET
    iterative = ladder(module, allocation, Geometric(rate=0.2), 12)
    at_once = ladder(module, allocation, OneShot(rate=0.2), 12)
    for a, b in zip(iterative, at_once, strict=True):
        for name in a:
            assert abs(int(a[name].sum()) - int(b[name].sum())) <= 3


def test_a_rate_prunes_round_p_n() -> None:
    assert [pruned(n, 0.2) for n in (10, 12, 13, 1)] == [2, 2, 3, 0]
    assert pruned(1000, 0.2, times=3) == round(1000 * (1 - 0.8**3))


def test_global_top_takes_from_all_layers_together() -> None:
    scores = {"a": torch.tensor([0.1, 0.2]), "b": torch.tensor([0.3, 0.4])}
    result = GlobalTop()(
        scores,
        mask.full(scores, scores),
        layers={"a": "linear", "b": "output"},
        rate=0.5,
        times=1,
        keep=None,
    )
    assert result["a"].tolist() == [False, False]
    assert result["b"].tolist() == [True, True]


def test_layerwise_takes_from_each_by_its_rate_and_half_from_the_output() -> None:
    rates = Layerwise().layer_rates(TINY[2], 0.2)
    assert rates == {"a": 0.2, "b": 0.2, "c": pytest.approx(0.1)}
    own = Layerwise(rates={"linear": 0.5, "c": 0.0, "a*": 0.3}).layer_rates(TINY[2], 0.2)
    assert own == {"a": 0.3, "b": 0.5, "c": 0.0}
    with pytest.raises(ValueError, match="rates: got 'z', allowed: a layer type"):
        Layerwise(rates={"z": 0.1}).layer_rates(TINY[2], 0.2)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0.0, 1.0), sizes=st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_targets_are_met_exactly_and_in_proportion(share: float, sizes: list[int]) -> None:
    survivors = {str(i): n for i, n in enumerate(sizes)}
    rates = {name: 0.1 if i % 2 else 0.2 for i, name in enumerate(survivors)}
    keep = round(share * sum(sizes))
    counts = solve(survivors, rates, keep)
    assert sum(counts.values()) == keep
    assert all(0 <= counts[n] <= survivors[n] for n in counts)


def test_targets_below_what_is_never_pruned_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep 1 of 20 weights: 10 are never pruned"):
        solve({"a": 10, "b": 10}, {"a": 0.0, "b": 0.2}, 1)


def test_schedules_give_parent_and_rate() -> None:
    assert (Geometric(rate=0.3)(4).parent, Geometric(rate=0.3)(4).times) == (3, 1)
    assert (OneShot()(4).parent, OneShot()(4).times) == (0, 4)
    assert Targets(densities=[0.5, 0.1])(2).density == 0.1
    with pytest.raises(ValueError, match="densities: got 2, allowed: one for each"):
        Targets(densities=[0.5, 0.1])(3)
    with pytest.raises(ValueError, match="falling fractions"):
        Targets(densities=[0.1, 0.5])
