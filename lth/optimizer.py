"""Optimizers as engines use them: which are allowed, and their state as tensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

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

_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "betas": (lambda v: all(0 <= b < 1 for b in v), "0 <= beta < 1 for both"),
    "rho": (lambda v: 0 <= v <= 1, "0 to 1"),
    "etas": (lambda v: 0 < v[0] < 1 < v[1], "one in (0, 1) and one above 1"),
    "capturable": (lambda v: not v, "false (engine=graph captures)"),
    "differentiable": (lambda v: not v, "false (updates are not differentiated)"),
    **{
        name: (lambda v: v >= 0, "0 or more")
        for name in (
            "lr",
            "momentum",
            "weight_decay",
            "eps",
            "alpha",
            "lr_decay",
            "initial_accumulator_value",
            "momentum_decay",
        )
    },
}
"""What torch allows the options of elementwise optimizers to be, and what a run does."""


def check_elementwise(optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    """ValueError unless the optimizer is an elementwise class of torch.optim.

    Others (LBFGS, Muon, Adafactor, ...) mix weights, so that pruned positions
    would change what survivors do.
    """
    target, _ = _parts(optimizer)
    name = getattr(target, "__name__", str(target))
    if name not in ELEMENTWISE or target is not getattr(torch.optim, name, None):
        raise ValueError(f"got {name}, allowed: torch.optim {', '.join(ELEMENTWISE)}")


def faults(optimizer: Callable[..., torch.optim.Optimizer]) -> list[str]:
    """What torch would refuse of an elementwise optimizer's options, a line each."""
    given = options(optimizer)
    found = [
        f"{name}: got {given[name]}, allowed: {allowed}"
        for name, (fits, allowed) in _RANGES.items()
        if name in given and not fits(given[name])
    ]
    if given.get("nesterov") and not (given["momentum"] > 0 and given["dampening"] == 0):
        found.append(
            f"nesterov: got True with momentum={given['momentum']} and "
            f"dampening={given['dampening']}, allowed: with momentum above 0 and dampening 0"
        )
    if given.get("foreach") and given.get("fused"):
        found.append("fused: got True with foreach=True, allowed: one of them")
    return found


def options(optimizer: Callable[..., torch.optim.Optimizer]) -> dict[str, Any]:
    """All options of an elementwise optimizer by name, its class's defaults included."""
    check_elementwise(optimizer)
    target, given = _parts(optimizer)
    known = list(inspect.signature(target).parameters.values())[1:]
    return {p.name: p.default for p in known} | dict(given)


def _parts(
    optimizer: Callable[..., torch.optim.Optimizer],
) -> tuple[Callable[..., torch.optim.Optimizer], Mapping[str, Any]]:
    """The class and the options that were given."""
    if isinstance(optimizer, functools.partial):
        return optimizer.func, optimizer.keywords
    return optimizer, {}


def build_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer], module: nn.Module
) -> torch.optim.Optimizer:
    """The optimizer over all parameters, in its fused form where there is one."""
    check_elementwise(optimizer)
    form = {"fused": True} if fused(optimizer) else {}
    return optimizer(module.parameters(), **form)


def fused(optimizer: Callable[..., torch.optim.Optimizer]) -> bool:
    """Whether an elementwise optimizer takes its fused form: where it has one, and nobody chose."""
    target, given = _parts(optimizer)
    chosen = {"fused", "foreach", "capturable", "differentiable"} & given.keys()
    return not chosen and target.__name__ in _FUSED


def base_rate(optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """The learning rate that schedules multiply."""
    return float(options(optimizer)["lr"])


def set_rate(optimizer: Moves, rate: float) -> None:
    """Set the learning rate of an optimizer's groups."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def at_rate(
    optimizer: Callable[..., torch.optim.Optimizer], lr: float
) -> Callable[..., torch.optim.Optimizer]:
    """The same optimizer with another base learning rate."""
    target, given = _parts(optimizer)
    # Not a partial of a partial: one that is a subclass would hide the optimizer's name.
    return functools.partial(target, **{**given, "lr": lr})


class Moves(Protocol):
    """What moves parameters: a ``torch.optim.Optimizer``, or what acts like one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...

    @property
    def state(self) -> Mapping[Tensor, dict[str, Any]]: ...


def slots(optimizer: Moves, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter>/<slot>`` tensors on the CPU (copies)."""
    found = {}
    for name, parameter in module.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                tensor = torch.as_tensor(value).detach().cpu()
                found[f"{name}/{slot}"] = tensor.clone(memory_format=torch.contiguous_format)
    return found


def load_slots_(optimizer: Moves, module: nn.Module, saved: Weights | None) -> None:
    """Put saved slots into a fresh optimizer; None or an empty mapping leaves it fresh."""
    parameters: Mapping[str, nn.Parameter] = dict(module.named_parameters())
    on_device = any(g.get("fused") or g.get("capturable") for g in optimizer.param_groups)
    for key, value in (saved or {}).items():
        name, _, slot = key.rpartition("/")
        parameter = parameters[name]
        if slot == "step":  # torch keeps the counter on the CPU but for these kernels
            loaded = value.clone().to(parameter.device if on_device else "cpu")
        elif value.shape == parameter.shape:
            # Fused kernels walk weights and slots side by side in memory, so these lie alike.
            loaded = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        else:
            loaded = value.clone().to(parameter.device)
        optimizer.state[parameter][slot] = loaded
