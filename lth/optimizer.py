"""Optimizers as engines use them: which are allowed, and their state as tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lth.types import Weights

ELEMENTWISE = [
    "SGD",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "Adagrad",
    "Adadelta",
    "ASGD",
]
"""torch.optim classes that treat each weight alone, so that a masked weight stays masked."""

_FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}


def check_elementwise(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """ValueError unless the optimizer is an elementwise class of torch.optim.

    Others (LBFGS, Muon, Adafactor, ...) mix weights, so that pruned positions
    would change what survivors do.
    """
    target = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    name = getattr(target, "__name__", str(target))
    if name not in ELEMENTWISE or target is not getattr(torch.optim, name, None):
        raise ValueError(f"got {name}, allowed: torch.optim {', '.join(ELEMENTWISE)}")


def build_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer], module: nn.Module
) -> torch.optim.Optimizer:
    """The optimizer over all parameters, in its fused form where there is one."""
    check_elementwise(optimizer)
    target: Any = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    given = optimizer.keywords if isinstance(optimizer, functools.partial) else {}
    chosen = {"fused", "foreach", "capturable", "differentiable"} & given.keys()
    fused = not chosen and target.__name__ in _FUSED
    options = {"fused": True} if fused else {}
    return optimizer(module.parameters(), **options)


def slots(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter>/<slot>`` tensors on the CPU (copies)."""
    found = {}
    for name, parameter in module.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                found[f"{name}/{slot}"] = torch.as_tensor(value).detach().cpu().clone()
    return found


def load_slots_(optimizer: torch.optim.Optimizer, module: nn.Module, saved: Weights | None) -> None:
    """Put saved slots back; None or an empty mapping leaves the optimizer fresh."""
    optimizer.state.clear()
    parameters: Mapping[str, nn.Parameter] = dict(module.named_parameters())
    for key, value in (saved or {}).items():
        name, _, slot = key.rpartition("/")
        parameter = parameters[name]
        # Counters (Adam's step) are scalars that stay where the optimizer keeps them.
        fused = any(g.get("fused") for g in optimizer.param_groups)
        device = parameter.device if value.ndim or fused else "cpu"
        optimizer.state[parameter][slot] = value.clone().to(device)
