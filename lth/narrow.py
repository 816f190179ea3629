"""Narrower forms of a model: every width option scaled down together."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from lth.dataset.task import Task
from lth.layer import kinds

WIDTHS = ("width", "hidden")
"""Options that scale a model's layers; ``width`` leads, the others follow in proportion."""


def widths(model: Callable[..., nn.Module]) -> dict[str, int]:
    """The width options of ``model`` and their values; ValueError where it has no ``width``."""
    parameters = inspect.signature(model).parameters
    found = {n: int(parameters[n].default) for n in WIDTHS if n in parameters}
    if "width" not in found:
        target, _ = _unfolded(model)
        name = getattr(target, "__qualname__", type(target).__name__)
        raise ValueError(f"model: got {name}, allowed: one with the option width (small_dense)")
    return found


def narrower(model: Callable[..., nn.Module]) -> Iterator[Callable[..., nn.Module]]:
    """``model`` with every width from 1 up to its own."""
    full = widths(model)
    target, options = _unfolded(model)
    for width in range(1, full["width"] + 1):
        scaled = {n: max(1, round(v * width / full["width"])) for n, v in full.items()}
        yield functools.partial(target, **{**options, **scaled})


def _unfolded(model: Callable[..., nn.Module]) -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    """What is called in the end, and with which options (a configured model is a partial)."""
    options: dict[str, Any] = {}
    while isinstance(model, functools.partial):
        options = {**model.keywords, **options}
        model = model.func
    return model, options


def size(model: Callable[..., nn.Module], task: Task) -> int:
    """How many prunable weights the model has; nothing is drawn."""
    with torch.device("meta"):
        module = model(input_shape=task.input_shape, num_classes=task.num_classes)
    parameters = dict(module.named_parameters())
    return sum(parameters[n].numel() for n in kinds(module))


def nearest(model: Callable[..., nn.Module], task: Task, count: int) -> Callable[..., nn.Module]:
    """The form of ``model`` whose weights are nearest to ``count`` by their ratio."""
    return min(narrower(model), key=lambda m: abs(math.log(size(m, task) / max(1, count))))
