"""Which optimizers are allowed, in which form, and their state as tensors."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import pytest
import torch
from torch import nn

from lth.optimizer import (
    ELEMENTWISE,
    at_rate,
    build_optimizer,
    check_elementwise,
    faults,
    load_slots_,
    slots,
)
from lth.spec import spec

REFUSED = [
    name
    for name in ("LBFGS", "SparseAdam", "Adafactor", "Muon")
    if hasattr(torch.optim, name)  # Muon came with torch 2.9
]


class SGD(torch.optim.SGD):
    """A user's own class under a known name: nobody has checked what it does."""


def test_the_allowed_are_classes_of_torch() -> None:
    for name in ELEMENTWISE:
        check_elementwise(getattr(torch.optim, name))
        check_elementwise(functools.partial(getattr(torch.optim, name), lr=0.1))


def test_every_class_of_torch_is_allowed_or_refused_on_purpose() -> None:
    """A class that a later torch adds has to be looked at."""
    classes = {
        name
        for name, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    assert classes - {"Optimizer"} == set(ELEMENTWISE) | set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_mixes_weights_is_refused_by_name(name: str) -> None:
    for optimizer in (getattr(torch.optim, name), functools.partial(getattr(torch.optim, name))):
        with pytest.raises(ValueError, match=f"got {name}, allowed: torch.optim SGD, Adam, "):
            check_elementwise(optimizer)
        with pytest.raises(ValueError, match=f"got {name}"):
            build_optimizer(optimizer, nn.Linear(1, 1))


@pytest.mark.parametrize("optimizer", [SGD, lambda params: torch.optim.SGD(params), len])
def test_what_only_looks_like_one_is_refused(optimizer: Any) -> None:
    with pytest.raises(ValueError, match="allowed: torch.optim"):
        check_elementwise(optimizer)


@pytest.mark.parametrize(
    ("name", "options", "fused"),
    [
        ("SGD", {"lr": 0.1}, True),
        ("Adam", {}, True),
        ("AdamW", {}, True),
        ("Adagrad", {}, True),
        ("RMSprop", {}, None),
        ("Adam", {"fused": False}, False),
        ("Adam", {"foreach": True}, None),
        ("Adam", {"differentiable": True}, None),
    ],
)
def test_the_fused_form_is_taken_unless_the_user_chooses(
    name: str, options: dict[str, Any], fused: bool | None
) -> None:
    partial = functools.partial(getattr(torch.optim, name), **options)
    built = build_optimizer(partial, nn.Linear(2, 2))
    assert type(built) is getattr(torch.optim, name)
    assert built.param_groups[0].get("fused") is fused
    assert [tuple(p.shape) for p in built.param_groups[0]["params"]] == [(2, 2), (2,)]


VALUES: dict[str, list[Any]] = {
    "lr": [-1e-9, 0.0, 1.0],
    "momentum": [-0.1, 0.0, 0.9],
    "weight_decay": [-1e-4, 0.0],
    "eps": [-1e-8, 0.0],
    "alpha": [-0.1, 0.5],
    "lr_decay": [-0.1, 0.0],
    "initial_accumulator_value": [-0.1, 0.0],
    "momentum_decay": [-0.1, 0.0],
    "betas": [[0.9, 1.0], [-0.1, 0.9], [0.0, 0.0]],
    "rho": [-0.1, 1.1, 1.0],
    "etas": [[0.5, 1.0], [1.1, 1.2], [0.0, 1.2], [0.1, 3.0]],
    "nesterov": [True, False],
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_what_torch_refuses_of_the_options_is_known_before(name: str) -> None:
    kind = getattr(torch.optim, name)
    asked = 0
    for option, values in VALUES.items():
        for value in values:
            optimizer = functools.partial(kind, **{option: value})
            if option not in inspect.signature(kind).parameters:
                continue
            asked += 1
            try:
                build_optimizer(optimizer, nn.Linear(1, 1))
                refused = False
            except ValueError:
                refused = True
            if name == "ASGD" and option == "alpha":
                continue  # torch checks nothing of it; below 0 it is no average
            found = faults(optimizer)
            assert bool(found) == refused, (option, value)
            assert all(f.startswith(f"{option}: got {value}, allowed: ") for f in found) or (
                option == "nesterov"
            )
    assert asked >= 5
    assert faults(kind) == []
    two = functools.partial(kind, foreach=True)
    assert faults(two) == []
    if "fused" in inspect.signature(kind).parameters:
        assert faults(functools.partial(two, fused=True)) == [
            "fused: got True with foreach=True, allowed: one of them"
        ]


def stepped(name: str, module: nn.Module, times: int = 2) -> torch.optim.Optimizer:
    options = {"momentum": 0.9, "lr": 0.1} if name == "SGD" else {}
    optimizer = build_optimizer(functools.partial(getattr(torch.optim, name), **options), module)
    for _ in range(times):
        for i, parameter in enumerate(module.parameters(), start=1):
            values = torch.arange(parameter.numel()).view(parameter.shape) * 0.1 + i
            parameter.grad = torch.empty_like(parameter).copy_(values)  # laid out as autograd does
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_slots_go_out_and_back(name: str) -> None:
    module = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    before = stepped(name, module)
    saved = slots(before, module)
    assert {key.rpartition("/")[0] for key in saved} == {"weight", "bias"}
    assert all(t.is_contiguous() and t.device.type == "cpu" for t in saved.values())
    fresh = stepped(name, module, times=0)
    load_slots_(fresh, module, saved)
    again = slots(fresh, module)
    assert again.keys() == saved.keys()
    for key, value in saved.items():
        assert torch.equal(again[key], value)
        assert again[key].dtype == value.dtype
    for parameter in module.parameters():
        for slot, value in before.state[parameter].items():
            if value is not None:  # in memory as the optimizer itself would have it
                assert fresh.state[parameter][slot].stride() == value.stride()
                assert fresh.state[parameter][slot].data_ptr() != value.data_ptr()


def test_slots_are_copies() -> None:
    module = nn.Linear(2, 2)
    optimizer = stepped("Adam", module)
    saved = slots(optimizer, module)
    kept = {key: value.clone() for key, value in saved.items()}
    load_slots_(fresh := stepped("Adam", module, times=0), module, saved)
    for used in (optimizer, fresh):
        used.step()
    assert all(torch.equal(saved[key], kept[key]) for key in saved)
    assert float(saved["weight/step"]) == 2


@pytest.mark.parametrize("saved", [None, {}])
def test_without_slots_an_optimizer_is_fresh(saved: Any) -> None:
    module = nn.Linear(2, 2)
    fresh = stepped("Adam", module, times=0)
    load_slots_(fresh, module, saved)
    assert slots(fresh, module) == {}


def test_another_rate_changes_the_rate_alone() -> None:
    class Deferred(functools.partial):  # type: ignore[type-arg]
        """As Hydra's, with attributes of its own."""

    given = Deferred(torch.optim.SGD, lr=0.1, momentum=0.9)
    given.origin = "here"  # type: ignore[attr-defined]
    for optimizer in (given, functools.partial(torch.optim.SGD, momentum=0.9)):
        other = at_rate(optimizer, 7.0)
        check_elementwise(other)
        assert spec(other) == {"name": "SGD", "lr": 7, "momentum": 0.9}
    assert spec(at_rate(torch.optim.SGD, 7.0)) == {"name": "SGD", "lr": 7}
    assert given.keywords["lr"] == 0.1
