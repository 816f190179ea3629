"""The masked optimizer: what is pruned stays exactly zero, what is kept learns."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lth.optimizer import ELEMENTWISE
from lth.protocol import Moment, Record, Result
from lth.stream import generator
from lth.training import Training

Make = Callable[..., Training]
Train = Callable[..., Result]

OPTIONS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in ELEMENTWISE if name != "SGD"]
OPTIONS += [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}),
    ("Adam", {"lr": 1e-2, "weight_decay": 5e-4, "amsgrad": True}),
    ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
    ("Adam", {"lr": 1e-2, "foreach": True}),
    ("RMSprop", {"lr": 1e-3, "weight_decay": 5e-4, "momentum": 0.9, "centered": True}),
    ("Adagrad", {"lr": 1e-2, "weight_decay": 5e-4}),
    ("NAdam", {"lr": 1e-2, "weight_decay": 5e-4, "decoupled_weight_decay": True}),
]

NO_MOMENTS = ("step_size", "exp_inf")
"""Slots that are not 0 where no gradient was seen: Rprop's is the rate, Adamax's is eps."""


class EveryStep:
    """Checks the live network after every single update."""

    def __init__(self) -> None:
        self.seen = 0

    def steps(self, training: Training) -> range:
        return range(training.last_step + 1)

    def __call__(self, moment: Moment, record: Record) -> None:
        state = moment.state(optimizer=True)
        assert state.optimizer is not None
        for name, kept in moment.mask.items():
            dead = state.weights[name][~kept]
            assert dead.numel() > 0
            assert not bool(dead.any())
            assert not bool(dead.signbit().any())  # 0.0, not -0.0
            for key, slot in state.optimizer.items():
                own, _, kind = key.rpartition("/")
                if own == name and slot.shape == kept.shape and kind not in NO_MOMENTS:
                    assert not bool(slot[~kept].any()), key
                    if moment.step > 1 and kind not in ("prev", "ax"):
                        assert bool(slot[kept].any()), key
        self.seen += 1


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_pruned_weights_and_moments_are_zero_after_every_step(
    name: str, options: dict[str, Any], make_training: Make, train: Train
) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), **options)
    training = make_training(density=0.4, steps=30, optimizer=optimizer, eval_every=100)
    check = EveryStep()
    result = train(training, check)
    assert check.seen == 31
    for weight, kept in training.mask.items():
        # Some survivors lie behind a silent ReLU.
        moved = (result.end.weights[weight] != training.start.weights[weight])[kept]
        assert moved.float().mean() > 0.7


def test_every_elementwise_class_is_checked() -> None:
    assert {name for name, _ in OPTIONS} == set(ELEMENTWISE)


def test_zero_and_negative_weights_that_are_kept_do_learn(
    make_training: Make, train: Train
) -> None:
    """A mask is not read off the values: a kept weight of 0.0 has a gradient and moves."""
    training = make_training(density=0.4, steps=4)
    weight = training.start.weights["fc2.weight"].clone()
    kept = training.mask["fc2.weight"].clone()
    kept[:, 0] = True
    weight[:, 0] = 0.0
    weights = {**training.start.weights, "fc2.weight": weight}
    start = type(training.start)(step=0, weights=weights, buffers={})
    mask = {**training.mask, "fc2.weight": kept}
    end = train(training.replace(mask=mask, start=start)).end.weights["fc2.weight"]
    for sign in (-1, 0, 1):
        chosen = kept & (weight.sign() == sign)
        assert int(chosen.sum()) > 5
        assert (end != weight)[chosen].float().mean() > 0.7


def test_biases_can_be_masked_too(make_training: Make, train: Train) -> None:
    training = make_training(density=0.4, steps=4)
    bias = torch.arange(10) % 2 == 0
    end = train(training.replace(mask={**training.mask, "fc1.bias": bias})).end.weights["fc1.bias"]
    assert bool(end[bias].all())
    assert end[~bias].tolist() == [0.0] * 5


def test_clipping_sees_living_weights_only(make_training: Make, train: Train) -> None:
    """One step by hand: mask the gradient, then scale it to the norm."""
    clip = 0.05
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    training = make_training(density=0.3, steps=1, optimizer=sgd, grad_clip=clip)
    task = training.task
    module = training.model(input_shape=task.input_shape, num_classes=task.num_classes)
    module.load_state_dict(training.start.weights)
    order = torch.randperm(64, generator=generator(*training.streams["order"], "epoch", 0))
    x, y = task.train.gather(order[:16])
    F.cross_entropy(module(x), y).backward()
    gradient = {n: p.grad for n, p in module.named_parameters()}
    living = {n: g * training.mask[n] if n in training.mask else g for n, g in gradient.items()}

    def norm(tensors: dict[str, torch.Tensor]) -> float:
        return sum(float(t.double().square().sum()) for t in tensors.values()) ** 0.5

    assert norm(gradient) > 1.1 * norm(living) > 1.1 * clip  # so that it makes a difference
    end = train(training).end.weights
    step = {n: training.start.weights[n] - end[n] for n in end}
    assert norm(step) == pytest.approx(clip, rel=1e-4)
    for name in step:
        torch.testing.assert_close(step[name], living[name] * (clip / norm(living)))


class Aside(nn.Module):
    """A layer that takes no part in the output."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(36, num_classes)
        self.aside = nn.Linear(36, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1))


def test_a_masked_weight_without_gradient_is_refused(make_training: Make, train: Train) -> None:
    assert train(make_training(model=Aside, steps=1)).record.status == "done"
    with pytest.raises(ValueError, match="takes no part in the loss"):
        train(make_training(model=Aside, steps=1, density=0.5))
