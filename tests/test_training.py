"""Ids: what is in them and what is not; two that are frozen."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from lth.dataset.digits import Digits
from lth.lr.cosine import Cosine
from lth.spec import canonical, spec
from lth.step import Step
from lth.training import LearningRate, Training, streams
from lth.types import TrainState


class Hand(torch.nn.Module):
    """A model that no initialisation of this package touches."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(2, 2)


def by_hand(task: Any, **changes: Any) -> Training:
    settings: dict[str, Any] = {
        "task": task,
        "model": Hand,
        "mask": {"fc.weight": torch.tensor([[True, False], [True, True]])},
        "start": TrainState(
            step=0,
            weights={
                "fc.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
                "fc.bias": torch.tensor([0.5, 0.25]),
            },
            buffers={},
        ),
        "last_step": 10,
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "learning_rate": LearningRate(shape=Cosine(), total=10),
        "streams": streams(0),
        "eval_every": 5,
    }
    return Training(**(settings | changes))


@pytest.fixture
def task(tiny_task: Any) -> Any:
    return tiny_task()


def test_every_part_of_the_spec_changes_the_id(task: Any, tiny_task: Any) -> None:
    base = by_hand(task)
    start = base.start
    changes: list[dict[str, Any]] = [
        {"mask": {"fc.weight": torch.ones(2, 2, dtype=torch.bool)}},
        {
            "start": TrainState(
                step=0, weights={**start.weights, "fc.bias": torch.zeros(2)}, buffers={}
            )
        },
        {"start": TrainState(step=0, weights=start.weights, buffers={"n": torch.ones(1)})},
        {"first_step": 1},
        {"last_step": 9},
        {"learning_rate": LearningRate(shape=Cosine(floor=0.1), total=10)},
        {"learning_rate": LearningRate(shape=Cosine(), total=11)},
        {"learning_rate": LearningRate(shape=Cosine(), total=10, warmup=2)},
        {"learning_rate": LearningRate(shape=Cosine(), total=10, hold=True)},
        {"optimizer": functools.partial(torch.optim.SGD, lr=0.2)},
        {"optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)},
        {"optimizer": functools.partial(torch.optim.Adam, lr=0.1)},
        {"streams": streams(1)},
        {"streams": streams(0, level=1)},
        {"eval_every": 4},
        {"label_smoothing": 0.1},
        {"grad_clip": 1.0},
        {"precision": "bf16"},
        {"task": tiny_task(seed=1)},
        {"task": tiny_task(subsample=0.5)},
        {"task": tiny_task(noise=2.0)},
    ]
    ids = {base.id, *(base.replace(**change).id for change in changes)}
    assert len(ids) == len(changes) + 1
    assert by_hand(task).id == base.id


def test_what_lies_under_the_mask_is_not_in_the_id(task: Any) -> None:
    weights = {**by_hand(task).start.weights, "fc.weight": torch.tensor([[1.0, 9.0], [3.0, 4.0]])}
    hidden = TrainState(step=0, weights=weights, buffers={})
    assert by_hand(task, start=hidden).id == by_hand(task).id


def test_a_frozen_id() -> None:
    digits = Digits()
    training = by_hand(digits.task(digits.read(None), seed=0, batch_size=60))  # type: ignore[arg-type]
    # It names a user's class by its path, which depends on how tests are imported.
    training = training.replace(model=torch.nn.Identity)
    assert training.id == FROZEN


FROZEN = "7f13bc9e40aa7e53be018a67cdb973211b86652dec092e2b252a197c31b3b845"


def test_numbers_are_canonical() -> None:
    assert canonical({"b": 1.0, "a": [1e-3, True, None]}) == '{"a":[0.001,true,null],"b":1}'
    assert spec(Step.parse("1ep30it")) == "1ep30it"
    assert spec(Cosine()) == {"name": "Cosine"}
    assert spec(Cosine(floor=0.5)) == {"name": "Cosine", "floor": 0.5}
    assert "download" not in spec(Digits())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda x: x, "has no name to be stored under"),
        (functools.partial(torch.optim.SGD, []), "by keyword"),
        (object(), "has no canonical form"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        spec(value)
