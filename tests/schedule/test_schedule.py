"""Schedules: the parent and the rate of each level."""

from __future__ import annotations

import pytest

from lth.protocol import Pruning
from lth.schedule.geometric import Geometric
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets


def test_geometric_prunes_what_is_left() -> None:
    assert [Geometric(rate=0.3)(n) for n in (1, 2, 9)] == [
        Pruning(parent=0, rate=0.3),
        Pruning(parent=1, rate=0.3),
        Pruning(parent=8, rate=0.3),
    ]
    assert Geometric().rate == 0.2


def test_one_shot_prunes_the_dense_network() -> None:
    assert [OneShot(rate=0.3)(n) for n in (1, 7)] == [
        Pruning(parent=0, rate=0.3, times=1),
        Pruning(parent=0, rate=0.3, times=7),
    ]


def test_targets_prune_to_a_density() -> None:
    targets = Targets(densities=[0.5, 0.1], rate=0.3)
    assert [targets(n) for n in (1, 2)] == [
        Pruning(parent=0, rate=0.3, density=0.5),
        Pruning(parent=1, rate=0.3, density=0.1),
    ]
    at_once = Targets(densities=[0.5, 0.1], one_shot=True)
    assert [at_once(n).parent for n in (1, 2)] == [0, 0]
    assert [at_once(n).density for n in (1, 2)] == [0.5, 0.1]
    with pytest.raises(ValueError, match="densities: got 2, allowed: one for each of the levels"):
        targets(3)


@pytest.mark.parametrize("schedule", [Geometric, OneShot])
@pytest.mark.parametrize("rate", [0, 1, -0.1, 1.5])
def test_a_rate_is_a_fraction(schedule: type, rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate: got {rate}, allowed: 0 < rate < 1"):
        schedule(rate=rate)


@pytest.mark.parametrize(
    "densities", [[], [1.0], [0.5, 0.5], [0.2, 0.5], [0.5, 0.0], [0.5, -0.1], [1.5]]
)
def test_densities_fall(densities: list[float]) -> None:
    with pytest.raises(ValueError, match="allowed: falling fractions below 1 and above 0"):
        Targets(densities=densities)
    with pytest.raises(ValueError, match="rate: got 1, allowed"):
        Targets(densities=[0.5], rate=1)
