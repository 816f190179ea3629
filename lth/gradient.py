"""Gradients of a scored state: what sensitivity criteria are made of. Inputs are never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from lth.types import Mask, TrainState, Weights

Forward = Callable[..., Tensor]
Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def first(batches: Batches, count: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``count`` training batches, or all of an epoch."""
    return islice(batches(), count)


def with_weights(state: TrainState, weights: Weights) -> TrainState:
    """The state with some of its weights in place of its own; buffers are copies."""
    return TrainState(
        step=state.step,
        weights={**state.weights, **weights},
        buffers={n: b.clone() for n, b in state.buffers.items()},
    )


def leaves(state: TrainState, names: Iterable[str]) -> dict[str, Tensor]:
    """Copies of the named weights that gradients can be taken for."""
    return {n: state.weights[n].detach().clone().requires_grad_() for n in names}


def mean_gradient(
    state: TrainState, mask: Mask, forward: Forward, batches: Batches, count: int | None
) -> dict[str, Tensor]:
    """The gradient of mean cross-entropy, averaged over batches; modules in train mode."""
    own = leaves(state, mask)
    total = {n: torch.zeros_like(w) for n, w in own.items()}
    seen = 0
    for x, y in first(batches, count):
        loss = F.cross_entropy(forward(with_weights(state, own), x), y)
        for name, g in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
            total[name] += g
        seen += 1
    return {n: g / seen for n, g in total.items()}


def mean_over_examples(
    state: TrainState,
    mask: Mask,
    forward: Forward,
    batches: Batches,
    count: int | None,
    *,
    of: Callable[[str, Tensor], Tensor],
    label: Callable[[Tensor, Tensor], Tensor] = lambda logits, y: y,
) -> dict[str, Tensor]:
    """The mean over examples of ``of(name, gradient of that example's loss)``; eval mode.

    ``label(logits, y)`` gives the class that each example's loss is taken for.
    """
    own = leaves(state, mask)
    total = {n: torch.zeros_like(w) for n, w in own.items()}
    seen = 0
    for x, y in first(batches, count):
        with torch.no_grad():
            y = label(forward(with_weights(state, own), x, train=False), y)
        # One after another: torch.func.vmap over a convolution's gradient crashes on some CPUs.
        for index in range(len(y)):
            logits = forward(with_weights(state, own), x[index : index + 1], train=False)
            loss = F.cross_entropy(logits, y[index : index + 1])
            for name, g in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
                total[name] += of(name, g)
        seen += len(y)
    return {n: t / seen for n, t in total.items()}


def check_batches(count: int | None) -> None:
    """ValueError, naming the option, for a count of batches below 1."""
    if count is not None and count < 1:
        raise ValueError(f"num_batches: got {count}, allowed: 1 or more, or null for an epoch")
