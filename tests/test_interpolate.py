"""Lines between networks: exact ends, exact zeros, fresh BatchNorm, both barriers."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from lth.engine.network import Network
from lth.interpolate import Point, barrier, between, distances, line, with_fresh_statistics
from lth.training import Training
from lth.types import TrainState

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ends(make_search: Any, make_workshop: Any) -> tuple[Training, TrainState, TrainState]:
    """Two trained BatchNorm networks of one mask (half of the weights)."""
    dense = make_search().dense(0)
    draw = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=draw) < 0.5 for n, m in dense.mask.items()}
    a = dense.replace(mask=mask)
    b = a.replace(streams={n: (*k, "copy", 1) for n, k in a.streams.items()})
    stored = make_workshop().complete([a, b])
    return a, stored[0].state("end"), stored[1].state("end")


def equal(a: TrainState, b: TrainState) -> bool:
    return all(torch.equal(a.weights[n], b.weights[n]) for n in a.weights) and all(
        torch.equal(a.buffers[n], b.buffers[n]) for n in a.buffers
    )


def test_ends_are_exact_and_the_middle_is_the_mean(ends: Any) -> None:
    training, a, b = ends
    assert equal(between(a, b, 0.0), a) and equal(between(a, b, 1.0), b)
    assert equal(between(a, a, 0.3), a)
    middle = between(a, b, 0.5)
    for name, weight in middle.weights.items():
        assert torch.allclose(weight, (a.weights[name] + b.weights[name]) / 2, atol=1e-7)
    for name, kept in training.mask.items():
        assert bool((middle.weights[name][~kept] == 0).all())


def test_statistics_are_those_of_the_data(ends: Any) -> None:
    training, a, _ = ends
    network = Network(training, CPU)
    x = training.task.train.gather(torch.arange(len(training.task.train)))[0]
    fresh = with_fresh_statistics(network, a, training.task.train)
    first = torch.nn.functional.conv2d(x, a.weights["conv1.weight"], padding=1)
    assert torch.allclose(fresh.buffers["norm1.running_mean"], first.mean((0, 2, 3)), atol=1e-5)
    wanted = first.transpose(0, 1).flatten(1).var(1, unbiased=True)
    assert torch.allclose(fresh.buffers["norm1.running_var"], wanted, rtol=1e-4)
    assert not torch.equal(fresh.buffers["norm1.running_mean"], a.buffers["norm1.running_mean"])
    assert all(torch.equal(fresh.weights[n], a.weights[n]) for n in a.weights)
    norms = [m for m in network.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert [m.momentum for m in norms] == [0.1, 0.1]
    # Twice the same: nothing of the first measurement is left over.
    assert equal(with_fresh_statistics(network, a, training.task.train), fresh)


def test_statistics_are_those_of_the_state_whatever_the_mask(ends: Any, make_search: Any) -> None:
    """The other end of a line may keep weights that this Training's mask prunes."""
    training, split = ends[0], ends[0].task.train
    dense = make_search().dense(0)
    state = dense.start
    own = with_fresh_statistics(Network(dense, CPU), state, split)
    assert equal(with_fresh_statistics(Network(training, CPU), state, split), own)
    filled = training.replace(fill={n: torch.ones_like(state.weights[n]) for n in training.mask})
    assert equal(with_fresh_statistics(Network(filled, CPU), state, split), own)


def test_a_network_without_batchnorm_is_left_alone(make_search: Any) -> None:
    class Plain(torch.nn.Sequential):
        def __init__(self, **_: Any) -> None:
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(36, 3))

    training = make_search(model=Plain).dense(0)
    assert with_fresh_statistics(Network(training, CPU), training.start, training.task.train) is (
        training.start
    )


def test_identical_copies_have_no_barrier_and_no_distance(ends: Any) -> None:
    training, a, _ = ends
    network, task = Network(training, CPU), training.task
    points = line(network, a, a, alphas=[0, 0.3, 0.5, 1], split=task.test, statistics=task.train)
    assert barrier(points) == 0.0 and barrier(points, chord=True) == 0.0
    assert len({p.loss for p in points}) == 1
    assert distances(a, a) == {"l2": 0.0, "cosine": 0.0}


def test_recomputing_statistics_changes_the_line(ends: Any) -> None:
    training, a, b = ends
    network, task = Network(training, CPU), training.task
    state = between(a, b, 0.5)
    network.load(state, training.mask)
    stale = network.evaluate(task.test, state)[0].mean()
    (fresh,) = line(network, a, b, alphas=[0.5], split=task.test, statistics=task.train)
    assert abs(float(stale) - fresh.loss) > 1e-4


def test_both_barriers_worked_by_hand() -> None:
    def at(alpha: float, error: float) -> Point:
        return Point(alpha=alpha, error=error, loss=0.0, classes=torch.zeros(1))

    points = [at(0.0, 0.10), at(0.25, 0.30), at(0.75, 0.36), at(1.0, 0.30)]
    # max 0.36 - (0.10 + 0.30) / 2; on the chord 0.30 - 0.15 = 0.15 beats 0.36 - 0.25 = 0.11.
    assert barrier(points) == pytest.approx(0.16)
    assert barrier(points, chord=True) == pytest.approx(0.15)


def test_distances_worked_by_hand() -> None:
    def state(*values: float) -> TrainState:
        return TrainState(step=0, weights={"w": torch.tensor(values)}, buffers={})

    assert distances(state(3.0, 0.0), state(0.0, 4.0)) == {"l2": 5.0, "cosine": 1.0}
    assert distances(state(1.0, 1.0), state(2.0, 2.0))["cosine"] == pytest.approx(0.0)


def test_whole_number_buffers_are_not_mixed(ends: Any) -> None:
    _, a, b = ends
    other = dataclasses.replace(
        b, buffers={n: v + 10 if not v.is_floating_point() else v for n, v in b.buffers.items()}
    )
    middle = between(a, other, 0.5)
    count = "norm1.num_batches_tracked"
    assert middle.buffers[count].dtype == a.buffers[count].dtype
    assert torch.equal(middle.buffers[count], a.buffers[count])
