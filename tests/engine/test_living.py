"""Which units matter, worked by hand, and that leaving out the others changes no number."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.engine.batches import batch_key
from lth.engine.living import living
from lth.engine.lockstep import Live
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.engine.perceptrons import Perceptrons
from lth.event.evaluate import Evaluate
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.protocol import Result
from lth.runtime import Runtime
from lth.training import LearningRate, Training, dense, streams

CPU = Runtime(device="cpu")


def mask(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows).bool()


def listed(units: list[Tensor]) -> list[list[int]]:
    return [u.int().tolist() for u in units]


# 3 inputs, hidden units a b c d, outputs p q. a is fed by input 0, b by input 1, c by
# nothing, d by input 2; p reads a and c, nothing reads b or d.
FIRST = mask([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]])
SECOND = mask([[1, 0, 1, 0], [0, 0, 0, 0]])


def test_units_without_outputs_and_their_inputs_are_dead() -> None:
    biases = [torch.ones(4).bool(), torch.ones(2).bool()]
    assert listed(living([FIRST, SECOND], biases)) == [[1, 0, 0], [1, 0, 1, 0], [1, 1]]


def test_a_unit_without_inputs_lives_as_long_as_it_has_a_bias() -> None:
    without_c = [mask([[1, 1, 0, 1]])[0], None]
    for biases in (without_c, [None, None]):
        assert listed(living([FIRST, SECOND], biases)) == [[1, 0, 0], [1, 0, 0, 0], [1, 1]]


def test_death_spreads_through_layers_both_ways() -> None:
    first = mask([[1, 0], [0, 1], [0, 0]])
    # Hidden units of the second layer: x reads unit 0, y reads unit 1, z reads unit 2.
    second = mask([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    third = mask([[1, 0, 1]])
    # Nothing reads y, so unit 1 and input 1 are dead; unit 2 is zero, so z is.
    units = living([first, second, third], [None, None, None])
    assert listed(units) == [[1, 0], [1, 0, 0], [1, 0, 0], [1]]
    biases = [torch.ones(3).bool(), None, None]
    units = living([first, second, third], biases)
    assert listed(units) == [[1, 0], [1, 0, 1], [1, 0, 1], [1]]


def test_outputs_live_whatever_is_pruned() -> None:
    nothing = torch.zeros(2, 3).bool()
    assert listed(living([nothing, torch.zeros(2, 2).bool()], [None, None])) == [
        [0, 0, 0],
        [0, 0],
        [1, 1],
    ]


class Perceptron(nn.Sequential):
    """Two hidden layers, by default of 20 and 12 units, the second without a bias."""

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: tuple[int, int] = (20, 12),
        biased: tuple[bool, bool, bool] = (True, False, True),
    ) -> None:
        sizes = [math.prod(input_shape), *hidden, num_classes]
        layers: list[nn.Module] = [nn.Flatten()]
        for (before, after), bias in zip(itertools.pairwise(sizes), biased, strict=True):
            layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
        super().__init__(*layers[:-1])


def network(tiny_task: Any, optimizer: Any, seed: int, **options: Any) -> Training:
    """Nothing pruned; those of all seeds see the same batches."""
    return dense(
        task=tiny_task(seed=0),
        model=functools.partial(Perceptron, **options),
        init=GlorotNormal(),
        optimizer=optimizer,
        learning_rate=LearningRate(shape=Constant(), total=30),
        seed=seed,
        eval_every=10,
        streams=streams(0),
    )


def ticket(
    tiny_task: Any, dead: str, optimizer: Any, seed: int = 0, density: float = 0.5
) -> Training:
    """A network with dead inputs and units in every layer, or with a layer that is gone."""
    whole = network(tiny_task, optimizer, seed)
    draw = torch.Generator().manual_seed(seed)
    kept = {n: torch.rand(m.shape, generator=draw) < density for n, m in whole.mask.items()}
    first, second, third = kept
    if dead == "inputs":
        kept[first][:, :10] = False
    elif dead == "units":
        kept[first][:, 3] = False  # a dead input
        kept[second][:, :6] = False  # six units of the first layer have no outputs
        kept[first][6:9] = False  # three have no inputs: trained constants
        kept[third][:, 2:5] = False  # three of the second have no outputs
        kept[second][5:8] = False  # two more have no inputs and no bias: they are zero
    else:
        kept[{"first": first, "second": second, "third": third}[dead]][:] = False
    bias = torch.rand(20, generator=draw) < 0.8
    return whole.replace(mask={**kept, "1.bias": bias})


def run(engine: Any, *trainings: Training) -> list[Result]:
    results = engine.train(
        list(trainings), events=lambda t: [Evaluate()], resume=lambda t: None, runtime=CPU
    )
    by_id = {r.training.id: r for r in results}
    return [by_id[t.id] for t in trainings]


MOVING = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-2)
OPTIMIZERS = {
    "sgd": MOVING,
    "adam": functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=1e-3),
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("sparse_below", [0.0, 1.0])
@pytest.mark.parametrize("dead", ["inputs", "units", "first", "second", "third"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_parameters_and_losses_are_the_loops(
    name: str, dead: str, sparse_below: float, tiny_task: Callable[..., Any]
) -> None:
    training = ticket(tiny_task, dead, OPTIMIZERS[name]).replace(grad_clip=0.5)
    (own,) = run(MLP(sparse_below=sparse_below), training)
    (wanted,) = run(Loop(), training)
    for weight, value in wanted.end.weights.items():
        torch.testing.assert_close(own.end.weights[weight], value, rtol=0, atol=1e-6)
    for ours, theirs in zip(own.record.metrics, wanted.record.metrics, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, nan_ok=True)


def test_what_leads_nowhere_still_decays(tiny_task: Callable[..., Any]) -> None:
    training = ticket(tiny_task, "units", MOVING)
    (own,) = run(MLP(), training)
    start, end = training.start.weights["1.weight"], own.end.weights["1.weight"]
    idle = training.mask["1.weight"].clone()
    idle[6:] = False
    assert int(idle.sum()) > 50
    moved = (end / start)[idle]
    assert float(moved.max()) < 0.9 and float(moved.std()) < 1e-5  # by decay alone, all alike


@pytest.mark.parametrize("sparse_below", [0.0, 1.0])
def test_what_is_dead_is_not_computed(sparse_below: float, tiny_task: Callable[..., Any]) -> None:
    training = ticket(tiny_task, "units", MOVING, density=1.0)
    live = Live(training, None, [], torch.device("cpu"))
    first, second, third = Perceptrons([live], lambda shape: sparse_below).stages
    # Of 20 units 6 have no outputs, 3 are constants (if their biases are kept); of 12, 6 are dead.
    constants = int(training.mask["1.bias"][6:9].sum())
    assert first.blocks[0].kept.shape == (11 + constants, 35)
    assert second.blocks[0].kept.shape == (6, 11 + constants)
    assert third.blocks[0].kept.shape == (3, 6)


def test_a_mask_of_whole_units_is_a_smaller_dense_network(tiny_task: Callable[..., Any]) -> None:
    training = ticket(tiny_task, "inputs", MOVING)
    rows, columns = torch.arange(20) % 3 > 0, torch.arange(12) % 2 > 0
    kept = [torch.ones_like(m) for n, m in training.mask.items() if n != "1.bias"]
    kept[0][~rows], kept[1][~columns], kept[1][:, ~rows], kept[2][:, ~columns] = (False,) * 4
    names = [n for n in training.mask if n != "1.bias"]
    training = training.replace(mask={**dict(zip(names, kept, strict=True)), "1.bias": rows})
    live = Live(training, None, [], torch.device("cpu"))
    stages = Perceptrons([live], lambda shape: 1.0).stages
    assert [tuple(s.blocks[0].kept.shape) for s in stages] == [(13, 36), (6, 13), (3, 6)]
    assert not any(s.blocks[0].sparse for s in stages)


@pytest.mark.parametrize("sparse_below", [0.0, 0.45, 1.0])
def test_company_changes_no_bit(sparse_below: float, tiny_task: Callable[..., Any]) -> None:
    engine = MLP(sparse_below=sparse_below)
    kinds = ("units", "second", "inputs", "first", "third", "units")
    cohort = [ticket(tiny_task, dead, MOVING, seed=i) for i, dead in enumerate(kinds)]
    assert len({batch_key(t) for t in cohort}) == 1  # else each would train alone
    for training, shared in zip(cohort, run(engine, *cohort), strict=True):
        (alone,) = run(engine, training)
        for name, weight in alone.end.weights.items():
            assert torch.equal(weight, shared.end.weights[name])
        assert str(alone.record.metrics) == str(shared.record.metrics)


def unbiased(tiny_task: Any, seed: int) -> Training:
    return network(tiny_task, MOVING, seed, hidden=(17, 9), biased=(False, False, False))


def test_clipping_asks_for_a_networks_own_gradients_only(tiny_task: Callable[..., Any]) -> None:
    """Norms of biases that only others have would be added, and other sums round otherwise."""
    other = ticket(tiny_task, "units", MOVING)
    lives = [Live(t, None, [], torch.device("cpu")) for t in (other, unbiased(tiny_task, 1))]
    stages = Perceptrons(lives, lambda shape: 0.3).stages
    assert [len(s.gradients(1)) for s in stages] == [1, 1, 1]
    cohort = [other, *(unbiased(tiny_task, seed) for seed in range(1, 6))]
    cohort = [t.replace(grad_clip=0.3) for t in cohort]
    for training, shared in zip(cohort, run(MLP(), *cohort), strict=True):
        (alone,) = run(MLP(), training)
        for name, weight in alone.end.weights.items():
            assert torch.equal(weight, shared.end.weights[name])


def test_evaluations_are_the_callers_own(tiny_task: Callable[..., Any]) -> None:
    training = ticket(tiny_task, "units", MOVING)
    live = Live(training, None, [], torch.device("cpu"))
    cohort = Perceptrons([live], lambda shape: 0.3)
    split = training.task.test
    losses, classes = cohort.evaluate(0, split, None)
    wanted = losses.clone(), classes.clone()
    losses.zero_(), classes.zero_()
    again = cohort.evaluate(0, split, None)
    assert torch.equal(again[0], wanted[0]) and torch.equal(again[1], wanted[1])


def test_the_class_is_that_of_the_highest_output(tiny_task: Callable[..., Any]) -> None:
    """Also where log-softmax rounds the outputs to one value."""
    training = ticket(tiny_task, "inputs", MOVING, density=1.0)
    last = list(training.start.weights)[-2:]
    weights = {n: w * 1e-9 if n in last else w for n, w in training.start.weights.items()}
    start = dataclasses.replace(training.start, weights=weights)
    live = Live(training.replace(start=start), None, [], torch.device("cpu"))
    cohort = Perceptrons([live], lambda shape: 0.3)
    split = training.task.train
    assert torch.equal(cohort.evaluate(0, split, None)[1], live.network.evaluate(split)[1])


def test_a_density_of_exactly_the_threshold_is_sparse(tiny_task: Callable[..., Any]) -> None:
    training = ticket(tiny_task, "inputs", MOVING, density=1.0)
    kept = {n: torch.ones_like(m) for n, m in training.mask.items()}
    kept["1.weight"].view(-1)[216:] = False  # 216 of 720 are left: 0.3
    kept["1.weight"] = kept["1.weight"].view(-1)[torch.arange(720) * 7 % 720].view(20, 36)
    live = Live(training.replace(mask=kept), None, [], torch.device("cpu"))
    first, *others = Perceptrons([live], lambda shape: 0.3).stages
    assert first.blocks[0].sparse and not any(s.blocks[0].sparse for s in others)
    first, *others = Perceptrons([live], lambda shape: 0.2999).stages
    assert not first.blocks[0].sparse
