"""Between two networks: the line from one to the other, barriers on it, distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lth.dataset.task import Split, in_chunks
from lth.engine.network import CHUNK, Network
from lth.types import TrainState, Weights

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def between(a: TrainState, b: TrainState, alpha: float) -> TrainState:
    """``a + alpha (b - a)``, exactly ``a`` at 0, ``b`` at 1, and ``a`` everywhere where b = a.

    Whole-number buffers (BatchNorm's count) are taken from ``a``.
    """

    def mix(x: Weights, y: Weights) -> dict[str, Tensor]:
        if alpha == 1:
            return {n: v.clone() for n, v in y.items()}
        return {
            n: v + alpha * (y[n] - v) if v.is_floating_point() else v.clone() for n, v in x.items()
        }

    return TrainState(
        step=a.step, weights=mix(a.weights, b.weights), buffers=mix(a.buffers, b.buffers)
    )


@torch.no_grad()
def with_fresh_statistics(network: Network, state: TrainState, split: Split) -> TrainState:
    """``state`` with BatchNorm's mean and variance measured anew on ``split``, unaugmented.

    Batches of ``CHUNK`` examples count equally. A network without BatchNorm is
    given back as it is. The network is left with the state loaded, as it is:
    its ends may have been pruned by other masks, and filled with other values.
    """
    network.load(state, {})
    norms = [m for m in network.module.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not norms:
        return state
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.module.eval()
    for norm in norms:
        norm.train()
    for x, _ in in_chunks(split, CHUNK):
        if len(x) > 1:
            network.module(x)
    network.module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    buffers = {n: b.detach().cpu().clone() for n, b in network.buffers.items()}
    return TrainState(step=state.step, weights=state.weights, buffers=buffers)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Error (a fraction) and mean loss of a network on one split, and its predicted classes."""

    alpha: float
    error: float
    loss: float
    classes: Tensor


def line(
    network: Network,
    a: TrainState,
    b: TrainState,
    *,
    alphas: Sequence[float],
    split: Split,
    statistics: Split,
) -> list[Point]:
    """The networks along the line, each with BatchNorm measured anew on ``statistics``."""
    points = []
    labels = split.labels.cpu()
    for alpha in alphas:
        state = with_fresh_statistics(network, between(a, b, alpha), statistics)
        losses, classes = network.evaluate(split, state)
        wrong = float((classes != labels).double().mean())
        loss = float(losses.double().mean())
        points.append(Point(alpha=alpha, error=wrong, loss=loss, classes=classes))
    return points


def barrier(points: Sequence[Point], *, chord: bool = False) -> float:
    """How far error rises on the line above its ends, in fractions.

    ``max E(alpha) - (E(0) + E(1)) / 2`` (Frankle et al. 2020); with ``chord`` the
    line between the ends is subtracted instead: ``max E(alpha) - ((1 - alpha)
    E(0) + alpha E(1))`` (Entezari et al. 2022). They differ where the ends do.
    """
    first, last = points[0].error, points[-1].error

    def base(alpha: float) -> float:
        return first + alpha * (last - first) if chord else (first + last) / 2

    return max(p.error - base(p.alpha) for p in points)


def distances(a: TrainState, b: TrainState) -> dict[str, float]:
    """``l2``: the norm of the difference of all weights; ``cosine``: 1 - cos of their angle."""
    x = torch.cat([w.double().flatten() for w in a.weights.values()])
    y = torch.cat([b.weights[n].double().flatten() for n in a.weights])
    norms = float(x.norm() * y.norm())
    same = bool(torch.equal(x, y))
    cosine = 0.0 if same or norms == 0 else 1 - float(x @ y) / norms
    return {"l2": float((x - y).norm()), "cosine": cosine}
