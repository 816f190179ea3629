"""Pure mask algebra. A mask maps parameter names to bool tensors; True = kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from lth.types import Mask, Scores, TrainState, Weights


def full(weights: Weights, names: Iterable[str]) -> dict[str, Tensor]:
    """The dense mask: all True on ``names``."""
    return {n: torch.ones(weights[n].shape, dtype=torch.bool) for n in names}


def remaining(mask: Mask) -> int:
    """How many weights are kept."""
    return sum(int(m.sum()) for m in mask.values())


def size(mask: Mask) -> int:
    """How many weights the mask covers, kept or not."""
    return sum(m.numel() for m in mask.values())


def prunable(mask: Mask) -> dict[str, Tensor]:
    """The weights of Linear and Conv layers: what has two dimensions or more.

    A mask of whole units covers their biases and norms too, which have one.
    """
    return {n: m for n, m in mask.items() if m.ndim > 1}


def density(mask: Mask) -> float:
    """Kept / all of the ``prunable`` weights, a fraction in (0, 1]."""
    weights = prunable(mask)
    return remaining(weights) / size(weights)


def nested(child: Mask, parent: Mask) -> bool:
    """Whether every weight that ``child`` keeps is kept by ``parent``.

    What only one of them covers is whole in the other; layers are covered by both.
    """
    if prunable(child).keys() != prunable(parent).keys():
        return False
    return all(
        not bool((child[n] & ~m).any()) if n in child else bool(m.all()) for n, m in parent.items()
    )


def union(first: Mask, *others: Mask) -> dict[str, Tensor]:
    """What any of them keeps."""
    return _combined(torch.logical_or, first, others)


def intersection(first: Mask, *others: Mask) -> dict[str, Tensor]:
    """What all of them keep."""
    return _combined(torch.logical_and, first, others)


def difference(first: Mask, *others: Mask) -> dict[str, Tensor]:
    """What the first keeps and none of the others does."""
    return _combined(lambda a, b: a & ~b, first, others)


def complement(mask: Mask) -> dict[str, Tensor]:
    """What it does not keep."""
    return {n: ~m for n, m in mask.items()}


def _combined(
    pair: Callable[[Tensor, Tensor], Tensor], first: Mask, others: Iterable[Mask]
) -> dict[str, Tensor]:
    """Fold ``pair`` over masks of one network; ValueError names the layers that differ."""
    result = {n: m.clone() for n, m in first.items()}
    for other in others:
        differing = [n for n in {**first, **other} if _shape(first, n) != _shape(other, n)]
        if differing:
            raise ValueError(
                "masks: got different layers at "
                + ", ".join(f"{n} ({_shape(first, n)}, {_shape(other, n)})" for n in differing)
                + ", allowed: equal names and shapes"
            )
        result = {n: pair(m, other[n]) for n, m in result.items()}
    return result


def _shape(mask: Mask, name: str) -> str:
    return str(list(mask[name].shape)) if name in mask else "nothing"


def overlap(a: Mask, b: Mask) -> dict[str, float]:
    """Intersection over union per layer, 1.0 where both are empty."""
    result = {}
    for name in a:
        union = int((a[name] | b[name]).sum())
        result[name] = int((a[name] & b[name]).sum()) / union if union else 1.0
    return result


def keep_top(scores: Scores, mask: Mask, count: int) -> dict[str, Tensor]:
    """Keep exactly ``count`` of the weights that ``mask`` keeps: the highest scores.

    Ranks all layers together, in the scores' own dtype. Ties go to the lower
    index (layers in the mask's order, then the flat index). The result nests
    in ``mask``. Raises ValueError where ``count`` exceeds the survivors, a
    layer's scores do not have its shape, or a survivor's score is not a number.
    """
    for name, kept in mask.items():
        if name not in scores or scores[name].shape != kept.shape:
            got = tuple(scores[name].shape) if name in scores else "none"
            raise ValueError(f"scores of {name}: got {got}, allowed: shape {tuple(kept.shape)}")
    names = list(mask)
    alive = torch.cat([mask[n].flatten() for n in names])
    flat = torch.cat([scores[n].flatten() for n in names])
    values = flat[alive]
    if not 0 <= count <= values.numel():
        raise ValueError(f"cannot keep {count} of {values.numel()} surviving weights")
    if bool(values.isnan().any()):
        raise ValueError("a score is not a number, so weights cannot be ranked")
    least = _highest(values, count) if count else torch.inf
    kept = alive & (flat > least)
    ties = (alive & (flat == least)).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    parts = torch.split(kept, [mask[n].numel() for n in names])
    return {n: part.reshape(mask[n].shape) for n, part in zip(names, parts, strict=True)}


def _highest(values: Tensor, rank: int) -> float:
    """The ``rank``-th highest of ``values``.

    By numpy's selection: sorting takes many times as long, and torch's ``kthvalue``
    the square of the size where values happen to be in descending order.
    """
    exact = values.float() if values.dtype == torch.bfloat16 else values  # numpy knows no bfloat16
    index = values.numel() - rank
    found: float = np.partition(exact.numpy(force=True), index)[index].item()
    return found


def apply(weights: Weights, mask: Mask, fill: Weights | None = None) -> dict[str, Tensor]:
    """A copy of ``weights`` that is exactly 0.0, or ``fill``, where ``mask`` is False."""
    fill = fill or {}
    return {
        n: torch.where(mask[n], w, fill[n] if n in fill else torch.zeros_like(w))
        if n in mask
        else w.clone()
        for n, w in weights.items()
    }


def apply_state(state: TrainState, mask: Mask, fill: Weights | None = None) -> TrainState:
    """``state`` with masked (or filled) weights and masked optimiser slots; buffers are copied."""
    optimizer = state.optimizer
    if optimizer is not None:
        optimizer = {
            key: _masked_slot(value, mask.get(key.rpartition("/")[0]))
            for key, value in optimizer.items()
        }
    return TrainState(
        step=state.step,
        weights=apply(state.weights, mask, fill),
        buffers={n: b.clone() for n, b in state.buffers.items()},
        optimizer=optimizer,
    )


def _masked_slot(value: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or value.shape != mask.shape:
        return value.clone()
    return torch.where(mask, value, torch.zeros_like(value))


def permuted(mask: Mask, generator: torch.Generator) -> dict[str, Tensor]:
    """Each tensor's entries in a random order."""
    shuffled = {}
    for name, own in mask.items():
        order = torch.randperm(own.numel(), generator=generator)
        shuffled[name] = own.flatten()[order].reshape(own.shape)
    return shuffled


def layer_densities(mask: Mask) -> Mapping[str, float]:
    """Kept / all for each layer."""
    return {n: int(m.sum()) / m.numel() for n, m in prunable(mask).items()}
