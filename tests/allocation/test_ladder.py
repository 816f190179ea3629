"""The density ladders of Frankle and Carbin (2019), from the networks' own shapes.

Layer-wise counts follow from the rates alone, so all scores are equal here:
the worst case for ties.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from lth import mask as masks
from lth.allocation.budget import pruned
from lth.allocation.global_top import GlobalTop
from lth.allocation.layerwise import Layerwise
from lth.layer import kinds
from lth.model.conv import Conv2, Conv4, Conv6
from lth.model.lenet_300_100 import LeNet300100
from lth.schedule.geometric import Geometric
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets
from lth.types import Mask

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
CONV = Layerwise(rates={"conv": 0.1})
CONV_6 = Layerwise(rates={"conv": 0.15})


def shapes(model: Callable[..., Any], image: tuple[int, ...]) -> tuple[dict[str, int], Any]:
    """Number of weights and type of each layer, without making the weights."""
    with torch.device("meta"):
        module = model(input_shape=image, num_classes=10)
    layers = kinds(module)
    return {n: module.get_parameter(n).numel() for n in layers}, layers


def ladder(
    sizes: Mapping[str, int], schedule: Any, allocation: Any, layers: Mapping[str, str], last: int
) -> list[Mask]:
    """The masks of levels 0 to ``last``."""
    by_level: list[Mask] = [{n: torch.ones(1, c, dtype=torch.bool) for n, c in sizes.items()}]
    scores = {n: torch.zeros(1, c) for n, c in sizes.items()}
    for level in range(1, last + 1):
        pruning = schedule(level)
        by_level.append(
            allocation(
                scores,
                by_level[pruning.parent],
                layers=layers,
                rate=pruning.rate,
                times=pruning.times,
                keep=None,
            )
        )
    return by_level


def kept(mask: Mask) -> dict[str, int]:
    return {n: int(m.sum()) for n, m in mask.items()}


def test_the_lenet_ladder() -> None:
    """51.28 % at level 3, 3.58 % at 15, 1.49 % at 19; every label of the paper's Figure 4."""
    percent = {1: 80.04, 2: 64.06, 3: 51.28, 7: 21.07, 9: 13.52, 11: 8.68, 12: 6.95, 13: 5.57}
    percent |= {15: 3.58, 16: 2.87, 18: 1.85, 19: 1.49}
    sizes, layers = shapes(LeNet300100, MNIST)
    assert sizes == {"fc1.weight": 235_200, "fc2.weight": 30_000, "fc3.weight": 1_000}
    rates = dict(zip(sizes, (0.2, 0.2, 0.1), strict=True))
    by_level = ladder(sizes, Geometric(), Layerwise(), layers, 19)
    for level, mask in enumerate(by_level):
        if level in percent:
            assert round(100 * masks.density(mask), 2) == percent[level]
        for name, count in kept(mask).items():
            assert abs(count - sizes[name] * (1 - rates[name]) ** level) < 1
        assert masks.nested(mask, by_level[max(0, level - 1)])


@pytest.mark.parametrize(
    ("model", "allocation", "weights", "percent"),
    [
        (Conv2, CONV, 4_300_992, {11: 8.8, 14: 4.6}),
        (Conv4, CONV, 2_425_024, {11: 11.1, 12: 9.2}),
        # The paper prints 26.4 and 15.1 % of 1.7M weights; its architecture has 2,261,184.
        (Conv6, CONV_6, 2_261_184, {7: 26.6, 10: 15.3}),
    ],
)
def test_the_conv_ladders(
    model: Callable[..., Any], allocation: Layerwise, weights: int, percent: dict[int, float]
) -> None:
    """Counts alone, by the functions that allocations use: masks of millions take seconds."""
    sizes, layers = shapes(model, CIFAR)
    assert sum(sizes.values()) == weights
    rates = allocation.layer_rates(layers, 0.2)
    conv = allocation.rates["conv"]
    assert list(rates.values()) == [conv] * (len(sizes) - 3) + [0.2, 0.2, 0.1]
    counts = dict(sizes)
    for level in range(1, max(percent) + 1):
        counts = {n: c - pruned(c, rates[n]) for n, c in counts.items()}
        for name, count in counts.items():
            # Each level rounds by at most a half and shrinks what earlier ones rounded: the
            # sum stays below 0.5 / rate. (Conv-2's output layer reaches 588 for 585.6.)
            assert abs(count - sizes[name] * (1 - rates[name]) ** level) < 0.5 / rates[name]
        if level in percent:
            assert round(100 * sum(counts.values()) / weights, 1) == percent[level]


@pytest.mark.parametrize(("rate", "apart"), [(0.1, 5), (0.2, 3), (0.45, 1)])
def test_one_shot_equals_iterative_within_rounding(rate: float, apart: int) -> None:
    """Apart by 0.5 / rate (the iterative ladder's rounding) and 0.5 (its own) at most."""
    assert apart <= 0.5 / rate + 0.5
    for sizes in ({"a": 997, "b": 64, "c": 5}, {"a": 10_000, "b": 333, "c": 31}):
        layers = dict.fromkeys(sizes, "linear")
        iterative = ladder(sizes, Geometric(rate=rate), Layerwise(), layers, 20)
        one_shot = ladder(sizes, OneShot(rate=rate), Layerwise(), layers, 20)
        for level, (a, b) in enumerate(zip(iterative, one_shot, strict=True)):
            for name, n in sizes.items():
                assert abs(kept(a)[name] - kept(b)[name]) <= apart
                assert kept(b)[name] == n - round((1 - (1 - rate) ** level) * n)


def test_lenet_in_one_shot_differs_by_one_weight_a_layer() -> None:
    sizes, layers = shapes(LeNet300100, MNIST)
    iterative = ladder(sizes, Geometric(), Layerwise(), layers, 19)
    (*_, at_once) = ladder(sizes, lambda level: OneShot()(19), Layerwise(), layers, 1)
    for name, count in kept(at_once).items():
        assert abs(count - kept(iterative[-1])[name]) <= 1


def test_global_ladders() -> None:
    sizes = {"a": 1000, "b": 100}
    layers = {"a": "conv", "b": "output"}
    iterative = ladder(sizes, Geometric(), GlobalTop(), layers, 20)
    one_shot = ladder(sizes, OneShot(), GlobalTop(), layers, 20)
    for level, (a, b) in enumerate(zip(iterative, one_shot, strict=True)):
        assert abs(masks.remaining(a) - 1100 * 0.8**level) <= 2.5
        assert masks.remaining(b) == 1100 - round((1 - 0.8**level) * 1100)


@pytest.mark.parametrize("allocation", [Layerwise(), GlobalTop()])
def test_targets_are_exact_and_excluded_layers_count_as_kept(
    allocation: Any, make_search: Callable[..., Any]
) -> None:
    """A density is kept / all Linear and Conv weights, pruned or excluded."""
    densities = [0.7, 0.5, 0.333]
    search = make_search(
        schedule=Targets(densities=densities),
        allocation=allocation,
        levels=3,
        exclude=["fc.weight"],
    )
    weights = search.theta_0(0).weights
    dense = masks.full(weights, search.layers)
    total = sum(weights[n].numel() for n in search.layers)
    scores = {n: weights[n].abs() for n in dense if n != "fc.weight"}
    mask: Mask = dense
    for level, density in enumerate(densities, start=1):
        new = search.pruner.allocate(scores, mask, level)
        assert masks.nested(new, mask)
        assert masks.size(new) == total
        assert masks.remaining(new) == round(density * total)
        assert bool(new["fc.weight"].all())
        mask = new
    fixed = weights["fc.weight"].numel() / total
    beyond = dataclasses.replace(search, schedule=Targets(densities=[fixed / 2]))
    with pytest.raises(ValueError, match=f"allowed: {fixed:.4g} .the excluded layers. to 1"):
        beyond.pruner.allocate(scores, dense, 1)
