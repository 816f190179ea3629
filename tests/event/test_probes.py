"""Probes against numbers worked out by hand, and the states that Keep keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.dataset.task import Task
from lth.engine.loop import Loop
from lth.event.dead_units import DeadUnits
from lth.event.evaluate import Evaluate
from lth.event.gradient_norm import GradientNorm
from lth.event.keep import Keep
from lth.event.progress import Progress
from lth.lr.constant import Constant
from lth.protocol import Record, Result, Stop
from lth.runtime import Runtime
from lth.training import LearningRate, Training, streams
from lth.types import TrainState


class Small(nn.Module):
    """(B, 1, 1, 2) -> two channels -> ReLU -> three units -> ReLU -> two scores."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        self.relu1 = nn.ReLU()
        self.fc = nn.Linear(4, 3)
        self.relu2 = nn.ReLU()
        self.out = nn.Linear(3, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.relu2(self.fc(self.relu1(self.conv(x)).flatten(1))))


class Split:
    def __init__(self, x: list[list[float]], y: list[int]) -> None:
        self.x = torch.tensor(x).view(-1, 1, 1, 2)
        self.labels = torch.tensor(y)

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.labels[indices]


def task(train: Split, validation: Split) -> Task:
    return Task(
        spec={},
        train=train,
        validation=validation,
        test=validation,
        input_shape=(1, 1, 2),
        num_classes=2,
        batch_size=len(train),
    )


def run(training: Training, *events: Any) -> Result:
    (result,) = Loop().train(
        [training], events=lambda t: events, resume=lambda t: None, runtime=Runtime(device="cpu")
    )
    return result


def training(model: Any, weights: dict[str, Any], its_task: Any, **changes: Any) -> Training:
    tensors = {n: torch.tensor(w) for n, w in weights.items()}
    options: dict[str, Any] = {
        "task": its_task,
        "model": model,
        "mask": {},
        "start": TrainState(step=0, weights=tensors, buffers={}),
        "last_step": 0,
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "learning_rate": LearningRate(shape=Constant(), total=4),
        "streams": streams(0),
        "eval_every": 2,
    }
    return Training(**(options | changes))


def test_dead_units_are_silent_on_all_of_validation() -> None:
    """Channels relu(x) and relu(-x); units a - 4, b - 3 and 0.

    On validation x is 1 or 2 everywhere, so the second channel is dead; the
    first unit never exceeds 0 (2 + 2 - 4), the second does (2 * 2 - 3), the
    third is 0 and so dead. Train, where x is -1 too, does not count.
    """
    weights = {
        "conv.weight": [[[[1.0]]], [[[-1.0]]]],
        "conv.bias": [0.0, 0.0],
        "fc.weight": [[1.0, 1.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]],
        "fc.bias": [-4.0, -3.0, 0.0],
        "out.weight": [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
    }
    validation = Split([[1.0, 1.0], [2.0, 2.0]], [0, 1])
    its_task = task(Split([[-1.0, -1.0]], [0]), validation)
    result = run(training(Small, weights, its_task), DeadUnits())
    assert result.record.probes["dead_units"] == [
        {"step": 0, "layer": "relu1", "dead": 1, "units": 2},
        {"step": 0, "layer": "relu2", "dead": 2, "units": 3},
    ]


def test_dead_units_are_counted_over_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that fires for one example of one chunk lives."""
    monkeypatch.setattr("lth.engine.network.CHUNK", 2)
    weights = {
        "conv.weight": [[[[1.0]]], [[[-1.0]]]],
        "conv.bias": [0.0, 0.0],
        "fc.weight": [[0.0] * 4] * 3,
        "fc.bias": [1.0, 1.0, -1.0],
        "out.weight": [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]],
    }
    validation = Split([[-1.0, 0.0]] + [[1.0, 1.0]] * 4, [0] * 5)
    result = run(training(Small, weights, task(validation, validation)), DeadUnits())
    assert [row["dead"] for row in result.record.probes["dead_units"]] == [0, 1]
    handles = [m._forward_hooks for m in Small(input_shape=(1, 1, 2), num_classes=2).modules()]
    assert not any(handles)


class Linear(nn.Linear):
    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(2, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


def test_dead_units_need_relus() -> None:
    its_task = task(Split([[1.0, 1.0]], [0]), Split([[1.0, 1.0]], [0]))
    with pytest.raises(ValueError, match="dead_units probe needs a network with nn.ReLU modules"):
        run(training(Linear, {"weight": [[0.0, 0.0]] * 2}, its_task), DeadUnits())


def test_gradient_norms_of_survivors_and_pruned_weights() -> None:
    """Zero weights, so probabilities are 1/2: the gradient of x = (3, 4), y = 0 is -+x / 2."""
    its_task = task(Split([[3.0, 4.0]], [0]), Split([[1.0, 1.0]], [0]))
    mask = {"weight": torch.tensor([[True, False], [True, True]])}
    start = training(Linear, {"weight": [[0.0, 0.0], [0.0, 0.0]]}, its_task, mask=mask)
    (row,) = run(start, GradientNorm()).record.probes["gradient_norm"]
    # survivors: -1.5, 1.5, 2; pruned: -2
    assert row == {
        "step": 0,
        "layer": "weight",
        "survivors": pytest.approx((1.5**2 + 1.5**2 + 2**2) ** 0.5),
        "pruned": pytest.approx(2.0),
    }
    (_, later) = run(start.replace(last_step=2), GradientNorm()).record.probes["gradient_norm"]
    assert later["step"] == 2
    assert 0 < later["survivors"] < row["survivors"]


@pytest.fixture
def noisy(make_search: Callable[..., Any]) -> Training:
    """A training whose validation loss is lowest somewhere in its middle."""
    search = make_search(
        optimizer=functools.partial(torch.optim.SGD, lr=1.0, momentum=0.9),
        learning_rate=LearningRate(shape=Constant(), total=14),
    )
    return search.dense(0).replace(eval_every=1)  # type: ignore[no-any-return]


def test_keep_keeps_the_state_of_its_step_and_of_early_stop(noisy: Training) -> None:
    every = range(noisy.last_step + 1)
    record = run(noisy, Evaluate(keep=True), Keep(at=frozenset(every))).record
    best = record.early_stop_step
    assert best == min(record.metrics, key=lambda row: row["val_loss"])["step"]
    assert best not in (0, noisy.last_step)
    assert set(record.states) == {"early_stop", *map(str, every)}
    for name, weight in record.states["early_stop"].weights.items():
        assert torch.equal(weight, record.states[str(best)].weights[name])
    assert record.states["early_stop"].step == best
    assert [record.states[str(s)].step for s in every] == list(every)
    assert all(state.optimizer is None for state in record.states.values())


def test_keep_keeps_slots_if_asked(noisy: Training) -> None:
    record = run(noisy, Keep(at=frozenset({0, 3}), optimizer=True)).record
    assert record.states["0"].optimizer == {}  # fresh
    slots = record.states["3"].optimizer
    assert slots is not None
    assert {key.rpartition("/")[2] for key in slots} == {"momentum_buffer"}


def test_progress_tells_the_validation_loss(noisy: Training) -> None:
    told: list[tuple[str, int, float]] = []
    record = run(
        noisy.replace(eval_every=5),
        Evaluate(),
        Progress(show=lambda t, step, loss: told.append((t.id, step, loss))),
    ).record
    own = noisy.replace(eval_every=5).id
    assert told == [(own, int(row["step"]), row["val_loss"]) for row in record.metrics]
    assert [step for _, step, _ in told] == [0, 5, 10, 14]


def test_the_grid_of_a_rewound_training(noisy: Training) -> None:
    record = run(noisy.replace(first_step=5, eval_every=4), Evaluate()).record
    assert [row["step"] for row in record.metrics] == [5, 8, 12, 14]
    assert ["train_loss" in row for row in record.metrics] == [False, False, False, True]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_batch_loss_that_is_not_finite_is_divergence_too(bad: float, noisy: Training) -> None:
    """Whatever validation says: an update was made from it."""

    class Moment:
        def __init__(self, step: int) -> None:
            self.training, self.step = noisy, step

        def batch_loss(self) -> float:
            return bad

        def evaluate(self, split: Any) -> tuple[Tensor, Tensor]:
            return torch.ones(len(split)), torch.zeros(len(split), dtype=torch.int64)

    record = Record()
    assert isinstance(Evaluate()(Moment(3), record), Stop)  # type: ignore[arg-type]
    assert record.status == "diverged"
    assert record.early_stop_step is None
    assert {"test_loss", "train_loss"} <= record.metrics[0].keys()
