"""Narrower forms of the shipped models, counted by hand."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Task
from lth.engine.mlp import MLP
from lth.init.kaiming_normal import KaimingNormal
from lth.lr.constant import Constant
from lth.model.conv import Conv2, Conv4
from lth.model.lenet_5 import LeNet5
from lth.model.lenet_300_100 import LeNet300100
from lth.model.resnet import ResNet20
from lth.model.torchvision import ResNet18
from lth.model.vgg import VGG11
from lth.narrow import narrower, nearest, size, widths
from lth.runtime import Runtime
from lth.spec import spec
from lth.training import LearningRate, dense

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


@functools.cache
def task(shape: tuple[int, int, int]) -> Task:
    data = Synthetic(train=20, test=10, shape=shape, classes=10)
    return data.task(data.read(Path()), seed=0, batch_size=4)


@pytest.mark.parametrize(
    ("model", "shape", "width", "options", "weights"),
    [
        (LeNet300100, GREY, 3, {"width": 3}, 784 * 3 + 3 * 1 + 1 * 10),
        (LeNet300100, GREY, 300, {"width": 300}, 266_200),
        (LeNet5, GREY, 2, {"width": 2}, 25 * 2 + 25 * 2 * 5 + 5 * 16 * 50 + 50 * 10),
        (LeNet5, GREY, 20, {"width": 20}, 430_500),
        # the linear layers shrink with the channels: 256 / 64
        (Conv2, COLOUR, 1, {"width": 1, "hidden": 4}, 27 + 9 + 256 * 4 + 4 * 4 + 4 * 10),
        (Conv4, COLOUR, 64, {"width": 64, "hidden": 256}, 2_425_024),
        (ResNet20, COLOUR, 16, {"width": 16}, 270_896),
        (VGG11, COLOUR, 1, {"width": 1}, 9 * (3 + 2 + 8 + 16 + 32 + 64 + 64 + 64) + 80),
    ],
)
def test_widths_scale_together(
    model: Any, shape: Any, width: int, options: dict[str, int], weights: int
) -> None:
    forms = list(narrower(model))
    form: Any = forms[width - 1]
    assert len(forms) == widths(model)["width"]
    assert form.func is model and form.keywords == options
    assert size(form, task(shape)) == weights
    assert nearest(model, task(shape), weights)(input_shape=shape, num_classes=10) is not None
    assert spec(nearest(model, task(shape), weights)) == spec(form)


def test_nearest_goes_by_the_ratio() -> None:
    """LeNet of width 1: 784 + 1 + 10 = 795; of 2: 1568 + 2 + 10 = 1580; their mean is 1120.8."""
    for count, width in ((1, 1), (1120, 1), (1121, 2), (10**9, 300)):
        form: Any = nearest(LeNet300100, task(GREY), count)
        assert form.keywords == {"width": width}


def test_a_configured_model_keeps_its_other_options_and_its_own_full_width() -> None:
    configured: Any = instantiate(
        {"_target_": "lth.model.conv.Conv2", "width": 8, "hidden": 20}, _partial_=True
    )
    *_, last = narrower(configured)
    assert last.func is Conv2 and last.keywords == {"width": 8, "hidden": 20}
    first: Any = next(narrower(functools.partial(configured, hidden=80)))
    assert first.keywords == {"width": 1, "hidden": 10}
    assert spec(first) == {"name": "Conv2", "width": 1, "hidden": 10}


def test_a_model_without_a_width_is_refused_by_name() -> None:
    for model in (ResNet18, functools.partial(ResNet18, stem="cifar")):
        with pytest.raises(ValueError, match="model: got ResNet18, allowed: one with the option"):
            widths(model)


@pytest.mark.parametrize("model", [LeNet300100, LeNet5])
def test_a_width_is_1_or_more(model: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match="width: got 0, allowed: 1 or more"):
        model(input_shape=GREY, num_classes=10, width=0)
    with pytest.raises(ValueError, match="hidden: got 0, allowed: 1 or more"):
        Conv2(input_shape=COLOUR, num_classes=10, hidden=0)


def test_perceptrons_of_several_widths_advance_together_as_alone() -> None:

    def training(width: int) -> Any:
        return dense(
            task=task((1, 4, 4)),
            model=functools.partial(LeNet300100, width=width),
            init=KaimingNormal(),
            optimizer=functools.partial(torch.optim.Adam, lr=0.01),
            learning_rate=LearningRate(shape=Constant(), total=6),
            seed=0,
            eval_every=3,
        )

    def ends(widths: list[int]) -> list[dict[str, Any]]:
        trained = MLP().train(
            [training(w) for w in widths],
            events=lambda t: (),
            resume=lambda t: None,
            runtime=Runtime(device="cpu"),
        )
        return [dict(r.end.weights) for r in trained]

    together = ends([9, 3, 12])
    for width, end in zip([9, 3, 12], together, strict=True):
        (alone,) = ends([width])
        assert all(torch.equal(alone[n], end[n]) for n in alone)
