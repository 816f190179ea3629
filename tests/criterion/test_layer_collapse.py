"""Layer collapse at extreme sparsity (Tanaka et al. 2020): who leaves some layer empty first.

A VGG-16 of width 4 (57,884 weights in 14 layers) is pruned at initialisation by one global
ranking. SynFlow in many steps keeps every layer alive at a density of 0.1 %, where all criteria
that score once have emptied one, SynFlow scored once among them: it is the iteration that saves
it. Which of magnitude, SNIP and GraSP goes first depends on width and data, so that is not told.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.criterion.grasp import GraSP
from lth.criterion.magnitude import magnitude
from lth.criterion.random import random
from lth.criterion.snip import SNIP
from lth.criterion.synflow import SynFlow
from lth.dataset.synthetic import Synthetic
from lth.init.kaiming_normal import KaimingNormal
from lth.lr.constant import Constant
from lth.model.vgg import VGG16
from lth.schedule.targets import Targets
from lth.training import LearningRate

DATA = Synthetic(train=200, test=20, shape=(3, 16, 16), classes=10, validation=40)
ONCE = {
    "random": random,
    "magnitude": magnitude,
    "snip": SNIP(),
    "grasp": GraSP(per_class=4),
    "synflow": SynFlow(),
}


@pytest.fixture(scope="module")
def smallest_layer(make_search: Any) -> Any:
    """The count of the layer that keeps fewest, and of all, at a density."""
    raw = DATA.read(Path())

    def prune(criterion: Any, density: float, *, seed: int, steps: int = 1) -> tuple[int, int]:
        search = make_search(
            seeds=(seed,),
            levels=1,
            tasks={seed: DATA.task(raw, seed=seed, batch_size=40)},
            model=functools.partial(VGG16, width=4),
            init=KaimingNormal(),
            learning_rate=LearningRate(shape=Constant(), total=1),
            criterion=criterion,
            allocation=GlobalTop(),
            schedule=Targets(densities=[density]),
            rewind_step=0,
            prune_at=0,
            score_steps=steps,
        )
        dense = search.dense(seed)
        untrained: Any = SimpleNamespace(
            id=dense.id,
            done={"first_step": 0},
            mask=lambda: dict(dense.mask),
            state=lambda when: dense.start,
        )
        mask = search.pruner.prune(search.history(untrained, untrained, seed), dense, seed, 1)
        assert masks.remaining(mask) == round(density * masks.size(mask))
        return min(int(m.sum()) for m in mask.values()), masks.size(mask)

    return prune


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ONCE)
def test_scored_once_every_criterion_empties_a_layer(
    name: str, seed: int, smallest_layer: Any
) -> None:
    alive, size = smallest_layer(ONCE[name], 0.3, seed=seed)
    assert alive > 0 and size == 57_884
    assert smallest_layer(ONCE[name], 0.001, seed=seed)[0] == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_synflow_in_many_steps_survives_longest(seed: int, smallest_layer: Any) -> None:
    assert smallest_layer(SynFlow(), 0.001, seed=seed, steps=50)[0] > 0


def test_synflow_scored_once_collapses_first(smallest_layer: Any) -> None:
    at = {name: smallest_layer(c, 10**-1.5, seed=0)[0] for name, c in ONCE.items()}
    assert at.pop("synflow") == 0
    assert min(at.values()) > 0
