"""The evaluation grid, early stopping and its censoring, what is evaluated when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lth.event.evaluate import Evaluate
from lth.protocol import Record, Stop


class FakeSplit:
    def __init__(self, name: str) -> None:
        self.name = name
        self.labels = torch.tensor([0, 1])


class FakeMoment:
    """Plays back validation losses; notes which splits were asked for."""

    def __init__(self, training: Any, losses: list[float], steps: list[int]) -> None:
        self.training = training
        self.losses, self.steps = losses, steps
        self.at = 0
        self.asked: list[tuple[int, str]] = []

    @property
    def step(self) -> int:
        return self.steps[self.at]

    def batch_loss(self) -> float:
        return float("nan") if self.at == 0 else 1.0

    def state(self) -> int:
        return self.step

    def evaluate(self, split: FakeSplit, state: int | None = None) -> tuple[Tensor, Tensor]:
        step = self.step if state is None else state
        self.asked.append((step, split.name))
        loss = self.losses[self.at] if split.name == "validation" else 0.5 + step
        return torch.tensor([loss, loss]), torch.tensor([0, 0])


class FakeTraining:
    def __init__(self, last: int) -> None:
        self.first_step, self.last_step = 0, last
        self.task = type("T", (), {n: FakeSplit(n) for n in ("train", "validation", "test")})()


def play(losses: list[float], **options: bool) -> tuple[Record, FakeMoment]:
    steps = [10 * i for i in range(len(losses))]
    moment = FakeMoment(FakeTraining(steps[-1]), losses, steps)
    record, event = Record(), Evaluate(**options)
    for moment.at in range(len(losses)):
        if isinstance(event(moment, record), Stop):  # type: ignore[arg-type]
            break
    return record, moment


@pytest.mark.parametrize(
    ("losses", "best"),
    [
        ([3.0, 2.0, 1.0, 2.0], 20),
        ([3.0, 1.0, 1.0, 2.0], 10),  # a tie goes to the earliest
        ([3.0, 2.0, 1.0], 20),  # the last: censored
        ([1.0, 2.0, 3.0], 0),
    ],
)
def test_early_stop_is_the_first_minimum(losses: list[float], best: int) -> None:
    assert play(losses)[0].early_stop_step == best


def test_test_is_evaluated_at_early_stop_and_at_the_end_only() -> None:
    record, moment = play([3.0, 2.0, 2.5, 1.0, 4.0])
    assert [s for s, name in moment.asked if name == "test"] == [40, 30]
    assert [m.get("test_loss") for m in record.metrics] == [None, None, None, 30.5, 40.5]
    assert record.predictions["test/early_stop/loss"].tolist() == [30.5, 30.5]
    assert record.predictions["test/end/loss"].tolist() == [40.5, 40.5]
    assert [s for s, name in moment.asked if name == "train"] == [40]
    assert [s for s, name in moment.asked if name == "validation"] == [0, 10, 20, 30, 40]
    assert record.metrics[4]["train_accuracy"] == 0.5


def test_a_censored_early_stop_is_the_end() -> None:
    record, moment = play([3.0, 2.0, 1.0])
    assert [s for s, name in moment.asked if name == "test"] == [20]
    assert record.predictions["test/early_stop/loss"].tolist() == [20.5, 20.5]


def test_the_state_of_early_stop_is_left_where_it_is_kept() -> None:
    assert play([3.0, 1.0, 2.0], keep=True)[0].states == {"early_stop": 10}
    assert play([3.0, 1.0, 2.0])[0].states == {}


def test_the_test_curve_has_every_point() -> None:
    record, _ = play([3.0, 2.0, 2.5], test_curve=True)
    assert [m["test_loss"] for m in record.metrics] == [0.5, 10.5, 20.5]


def test_predictions_are_kept_at_early_stop_and_at_the_end() -> None:
    record = play([3.0, 1.0, 2.0])[0]
    assert record.predictions["val/early_stop/loss"].tolist() == [1.0, 1.0]
    assert record.predictions["val/end/loss"].tolist() == [2.0, 2.0]
    assert set(record.predictions) == {
        f"{s}/{w}/{v}"
        for s in ("val", "test")
        for w in ("early_stop", "end")
        for v in ("loss", "class")
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_it_as_diverged(bad: float) -> None:
    record, moment = play([3.0, bad, 1.0])
    assert record.status == "diverged"
    assert moment.at == 1
    assert record.early_stop_step == 0
    assert record.predictions["test/end/loss"].tolist() == [10.5, 10.5]
    assert record.predictions["test/early_stop/loss"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("first", "last", "every", "grid"),
    [
        (0, 10, 4, [0, 4, 8, 10]),
        (5, 12, 4, [5, 8, 12]),
        (4, 12, 4, [4, 8, 12]),
        (0, 3, 100, [0, 3]),
        (7, 7, 4, [7]),
    ],
)
def test_the_grid_is_absolute(
    first: int, last: int, every: int, grid: list[int], make_search: Any
) -> None:
    training = make_search().dense(0).replace(first_step=first, last_step=last, eval_every=every)
    assert training.grid() == grid
