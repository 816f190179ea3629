"""What of a network may be pruned: the weights of its Linear and Conv layers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

Kinds = Mapping[str, str]
"""Prunable parameter name -> ``conv``, ``linear`` or ``output``, in module order."""

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (*_CONV, nn.Linear)
"""The modules whose weights may be pruned."""


def kinds(model: nn.Module) -> dict[str, str]:
    """The prunable weights of ``model`` and the type of their layer.

    ``output`` is the last Linear layer in module order, or the last layer of
    all where the network has no Linear. Biases and norms are never prunable.
    A weight that several modules share is one, under the first of its names.
    Raises ValueError where the network has no prunable weight, or one that is
    computed from others (``torch.nn.utils.parametrize``) or has no shape yet.
    """
    found: dict[str, str] = {}
    for name, m in weights(model):
        found.setdefault(name, "conv" if isinstance(m, _CONV) else "linear")
    if not found:
        raise ValueError(f"{type(model).__name__} has no Linear or Conv layer to prune")
    linears = [name for name, kind in found.items() if kind == "linear"]
    found[(linears or list(found))[-1]] = "output"
    return found


def weights(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The Linear and Conv modules with the names of their weights; see ``kinds`` for errors."""
    names = {id(p): n for n, p in model.named_parameters()}
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        weight = module.weight
        if id(weight) not in names:
            raise ValueError(
                f"{name}: got a weight that is computed from other parameters, allowed: "
                "a parameter of its own (no weight or spectral norm)"
            )
        if isinstance(weight, UninitializedParameter):
            raise ValueError(
                f"{name}: got a lazy layer without a shape, allowed: one that has it (call the "
                "network once in its __init__)"
            )
        found.append((names[id(weight)], module))
    return found


@torch.no_grad()
def uses(model: nn.Module, input_shape: Sequence[int]) -> dict[str, int]:
    """How often each weight of a prunable layer is used on one example.

    1 for Linear, the number of output positions for Conv (per group: a weight
    is used once at each). Weights kept times uses is the number of
    multiply-adds of a forward pass.
    """
    counts = dict.fromkeys(kinds(model), 0)
    features = {n: w.shape[0] for n, w in model.named_parameters() if n in counts}
    handles = []
    for weight, module in weights(model):

        def count(_: nn.Module, inputs: object, output: Tensor, weight: str = weight) -> None:
            # One example: all of the output, shared among its features.
            counts[weight] += output.numel() // features[weight]

        handles.append(module.register_forward_hook(count))
    was_training = model.training
    model.eval()(torch.zeros(1, *input_shape))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return counts


def matches(name: str, kind: str, pattern: str) -> bool:
    """Whether a layer is meant by ``pattern``: its name (with ``*``) or its type."""
    return pattern == kind or fnmatch.fnmatchcase(name, pattern)


def select(layers: Kinds, patterns: Iterable[str]) -> list[str]:
    """The names that any pattern means; ValueError for a pattern that means none."""
    chosen: list[str] = []
    for pattern in patterns:
        hits = [n for n, kind in layers.items() if matches(n, kind, pattern)]
        if not hits:
            raise ValueError(
                f"got {pattern!r}, allowed: a layer type "
                f"({', '.join(sorted(set(layers.values())))}) or a name with * "
                f"({', '.join(layers)})"
            )
        chosen += hits
    return [n for n in layers if n in chosen]
