"""GraSP: keep the gradient flowing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lth.gradient import Batches, Forward, leaves, with_weights
from lth.history import History
from lth.option import at_least
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class GraSP:
    """``w * (H g)``, the highest kept (Wang et al. 2020): what raises ``g . g`` when it goes, goes.

    g is the gradient of the network that is left: 0 at weights that are pruned
    already, which do not train. From ``per_class`` training examples of each class,
    logits divided by ``temperature`` (published: 10 and 200); modules are in train
    mode. Raises ValueError where an epoch has too few examples of a class.
    """

    per_class: int = 10
    temperature: float = 200.0

    def __post_init__(self) -> None:
        at_least("per_class", self.per_class, 1)
        if not self.temperature > 0:
            raise ValueError(f"temperature: got {self.temperature}, allowed: above 0")

    def __call__(
        self,
        history: History,
        mask: Mask,
        *,
        forward: Forward,
        batches: Batches,
        generator: torch.Generator,
    ) -> Scores:
        state = history.scored
        own = leaves(state, mask)
        x, y = _balanced(batches, self.per_class)
        logits = forward(with_weights(state, own), x) / self.temperature
        loss = F.cross_entropy(logits, y)
        gradient = torch.autograd.grad(loss, list(own.values()), create_graph=True)
        flowing = [g.detach() * mask[n] for n, g in zip(own, gradient, strict=True)]
        pairs = zip(gradient, flowing, strict=True)
        flow = torch.stack([(g * still).sum() for g, still in pairs]).sum()
        products = torch.autograd.grad(flow, list(own.values()))
        return {n: state.weights[n] * hg for n, hg in zip(own, products, strict=True)}


def _balanced(batches: Batches, per_class: int) -> tuple[Tensor, Tensor]:
    """The first ``per_class`` examples of every class that an epoch has."""
    parts = list(batches())
    x, y = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    rows = []
    for own in torch.unique(y):
        found = (y == own).nonzero().flatten()[:per_class]
        if len(found) < per_class:
            raise ValueError(
                f"per_class: got {per_class}, allowed: at most {len(found)} (class {int(own)})"
            )
        rows.append(found)
    chosen = torch.cat(rows)
    return x[chosen], y[chosen]
