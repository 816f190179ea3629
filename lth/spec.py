"""The canonical description of a value, which content ids hash.

``spec(component)`` turns a frozen dataclass, a plain function or a
``functools.partial`` into JSON: its name and the arguments that differ from
their defaults. Components of this package, torch and torchvision are named by
class or function, a user's own by full import path. A dataclass field with
``metadata={"semantic": False}`` (where data lies, how many workers read it)
changes no result and stays out.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lth.step import Step
from lth.types import TrainState

Json: TypeAlias = Any
"""None, bool, int, float, str, or a list or dict of these."""


def name_of(target: Any) -> str:
    """A component's name; the import path too where it is a user's own."""
    module = getattr(target, "__module__", "")
    if module.partition(".")[0] in {"lth", "torch", "torchvision"}:
        return str(target.__qualname__)
    return f"{module}.{target.__qualname__}"


def spec(value: Any) -> Json:
    """Canonical JSON of ``value``; ValueError for what has no canonical form."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Step):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): spec(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [spec(v) for v in value]
    if isinstance(value, functools.partial):
        return _partial_spec(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _dataclass_spec(value)
    if callable(value) and hasattr(value, "__qualname__"):
        if "<" in value.__qualname__:
            raise ValueError(f"{value.__qualname__} has no name to be stored under; use a def")
        return {"name": name_of(value)}
    raise ValueError(f"a {type(value).__name__} has no canonical form; use a frozen dataclass")


def _partial_spec(value: functools.partial[Any]) -> Json:
    if value.args:
        raise ValueError(f"pass arguments of {name_of(value.func)} by keyword")
    ours = value.func.__module__.partition(".")[0] == "lth"
    parameters = inspect.signature(value.func).parameters
    given = {
        k: spec(v)
        for k, v in value.keywords.items()
        if not (ours and k in parameters and _same(parameters[k].default, v))
    }
    return {"name": name_of(value.func), **given}


def _dataclass_spec(value: Any) -> Json:
    given = {}
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if not field.metadata.get("semantic", True):
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if not _same(default, current):
            given[field.name] = spec(current)
    return {"name": name_of(type(value)), **given}


def _same(default: Any, value: Any) -> bool:
    if default is dataclasses.MISSING or default is inspect.Parameter.empty:
        return False
    try:
        return bool(spec(default) == spec(value))
    except ValueError:
        return False


def canonical(value: Json) -> str:
    """One text for one JSON value: sorted keys, no spaces, integral floats as integers."""
    return json.dumps(spec(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_id(value: Json) -> str:
    """SHA-256 (hex) of the canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(canonical([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def state_digest(state: TrainState) -> str:
    """The digest of a state's weights, buffers and (where saved) optimiser slots."""
    parts = {f"weights/{n}": t for n, t in state.weights.items()}
    parts |= {f"buffers/{n}": t for n, t in state.buffers.items()}
    parts |= {f"optimizer/{n}": t for n, t in (state.optimizer or {}).items()}
    return tensor_digest(parts)
