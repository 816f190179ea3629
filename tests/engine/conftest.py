"""A tiny perceptron and the shortest way to train it."""

from __future__ import annotations

import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lth import mask as masks
from lth.engine.loop import Loop
from lth.init.glorot_normal import GlorotNormal
from lth.lr.constant import Constant
from lth.protocol import Engine, Event, Result, Resume
from lth.runtime import Runtime
from lth.training import LearningRate, Training, dense


class _Perceptron(nn.Sequential):
    """Two hidden layers with ReLU, and dropout after each where ``dropout`` is above 0."""

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: tuple[int, int] = (10, 8),
        dropout: float = 0.0,
    ) -> None:
        sizes = [input_shape[0] * input_shape[1] * input_shape[2], *hidden, num_classes]
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, (before, after) in enumerate(itertools.pairwise(sizes), start=1):
            layers[f"fc{i}"] = nn.Linear(before, after)
            if i < 3:
                layers[f"relu{i}"] = nn.ReLU()
                if dropout:
                    layers[f"dropout{i}"] = nn.Dropout(dropout)
        super().__init__(layers)


@pytest.fixture(scope="session")
def Perceptron() -> type[nn.Module]:
    """The class: fc1, fc2, fc3; options ``hidden`` and ``dropout``."""
    return _Perceptron


@pytest.fixture(scope="session")
def make_training(tiny_task: Callable[..., Any]) -> Callable[..., Training]:
    """``make_training(density=1.0, steps=12, **fields)``: 64 examples, batches of 16."""

    def make(*, density: float = 1.0, steps: int = 12, **changes: Any) -> Training:
        options: dict[str, Any] = {
            "task": tiny_task(),
            "model": _Perceptron,
            "init": GlorotNormal(),
            "optimizer": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            "learning_rate": LearningRate(shape=Constant(), total=steps),
            "seed": 0,
            "eval_every": 4,
        }
        training = dense(**(options | changes))
        if density == 1.0:
            return training
        scores = {n: training.start.weights[n].abs() for n in training.mask}
        count = round(density * masks.size(training.mask))
        return training.replace(mask=masks.keep_top(scores, training.mask, count))

    return make


@pytest.fixture(scope="session")
def train() -> Callable[..., Result]:
    """``train(training, *observers, engine=Loop(), resume=None)`` on the CPU, one thread."""

    def run(
        training: Training,
        *observers: Event,
        engine: Engine | None = None,
        resume: Resume | None = None,
    ) -> Result:
        (result,) = (engine or Loop()).train(
            [training],
            events=lambda t: observers,
            resume=lambda t: resume,
            runtime=Runtime(device="cpu"),
        )
        return result

    return run
