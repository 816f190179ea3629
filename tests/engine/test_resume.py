"""Interrupted at any step and gone on with, a training ends with the same bits."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lth.engine.loop import Loop
from lth.event.evaluate import Evaluate
from lth.optimizer import ELEMENTWISE
from lth.protocol import Moment, Record, Result, Resume, Stop
from lth.store import checkpoints
from lth.training import Training
from lth.types import TrainState

Make = Callable[..., Training]
Train = Callable[..., Result]


class KillAt:
    """Catches a training as Checkpoint does, by way of the bytes of a file, and ends it."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.data = b""

    def steps(self, training: Training) -> list[int]:
        return [self.at]

    def __call__(self, moment: Moment, record: Record) -> Stop:
        state = moment.state(optimizer=True)
        loss = moment.pending_loss()
        resume = Resume(state=state, mask=moment.mask, record=record, pending_loss=loss)
        self.data = checkpoints.encode(moment.training, resume, {})
        return Stop()


def assert_equal_bits(a: Result, b: Result) -> None:
    def tensors(state: TrainState) -> dict[str, torch.Tensor]:
        return {**state.weights, **{f"buffer {n}": t for n, t in state.buffers.items()}}

    first, second = tensors(a.end), tensors(b.end)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    # As text, for the NaN at step 0.
    rows = [repr([sorted(row.items()) for row in r.record.metrics]) for r in (a, b)]
    assert rows[0] == rows[1]
    assert a.record.early_stop_step == b.record.early_stop_step
    assert a.record.status == b.record.status == "done"
    for name, tensor in a.record.predictions.items():
        assert torch.equal(tensor, b.record.predictions[name])


def check(train: Train, training: Training, at: int, engine: Loop | None = None) -> None:
    """Against the training in one go."""
    whole = train(training, Evaluate(), engine=engine)
    kill = KillAt(at)
    train(training, Evaluate(), kill, engine=engine)
    resume = checkpoints.decode(kill.data, training, {})
    assert_equal_bits(train(training, Evaluate(), engine=engine, resume=resume), whole)


OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in ELEMENTWISE if name != "SGD"]
OPTIONS += [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    ("Adam", {"amsgrad": True, "fused": False}),
    ("RMSprop", {"lr": 1e-3, "momentum": 0.9, "centered": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_every_optimizer(
    name: str, options: dict[str, Any], make_training: Make, train: Train
) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), **options)
    check(train, make_training(density=0.4, optimizer=optimizer), at=6)


@pytest.mark.parametrize("at", [0, 1, 4, 11])
def test_every_moment(at: int, make_training: Make, train: Train) -> None:
    """At the start, on and off the grid, before the last update."""
    check(train, make_training(density=0.4), at)


def test_dropout(make_training: Make, train: Train, Perceptron: type[nn.Module]) -> None:
    model = functools.partial(Perceptron, dropout=0.5)
    check(train, make_training(density=0.4, model=model), at=6)


@pytest.mark.parametrize("engine", [Loop(), Loop(channels_last=True)])
@pytest.mark.parametrize(
    "optimizer",
    [
        functools.partial(torch.optim.Adam, lr=1e-2),
        functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        functools.partial(torch.optim.RMSprop, lr=1e-3),
    ],
)
def test_memory_layouts(
    engine: Loop, optimizer: Any, make_search: Callable[..., Any], train: Train
) -> None:
    """Fused kernels walk weights and slots side by side in memory; files have one layout."""
    check(train, make_search(optimizer=optimizer).dense(0), at=7, engine=engine)


def test_a_training_that_starts_with_slots_goes_on_where_they_were_saved(
    make_training: Make, train: Train
) -> None:
    """Steps 0 to 5 and 5 to 12 in two Trainings are steps 0 to 12 in one."""
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    whole = make_training(density=0.4, optimizer=adam)
    kill = KillAt(5)
    train(whole, kill)
    caught = checkpoints.decode(kill.data, whole, {})
    assert caught is not None
    rest = whole.replace(start=caught.state, first_step=5)
    assert rest.start.step == 5
    a, b = train(whole), train(rest)
    for name, weight in a.end.weights.items():
        assert torch.equal(weight, b.end.weights[name])
    bare = TrainState(step=5, weights=caught.state.weights, buffers={})
    fresh = train(rest.replace(start=bare))  # the slots made a difference
    assert not torch.equal(fresh.end.weights["fc1.weight"], a.end.weights["fc1.weight"])
