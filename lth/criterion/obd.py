"""Optimal brain damage: the diagonal of the Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lth.gradient import Batches, Forward, check_batches, first, leaves, with_weights
from lth.history import History
from lth.option import at_least
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class OBD:
    """``h w^2 / 2``, h the Hessian's diagonal of the mean loss (LeCun et al. 1990).

    h is Hutchinson's estimate, the mean over ``samples`` of ``v * (H v)`` with v of
    random signs (exact where H is diagonal), averaged over ``num_batches`` training
    batches (null: an epoch); modules are in eval mode. Scores may be negative.
    """

    num_batches: int | None = 10
    samples: int = 10

    def __post_init__(self) -> None:
        check_batches(self.num_batches)
        at_least("samples", self.samples, 1)

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
        total = {n: torch.zeros_like(w) for n, w in own.items()}
        seen = 0
        for x, y in first(batches, self.num_batches):
            loss = F.cross_entropy(forward(with_weights(state, own), x, train=False), y)
            gradient = torch.autograd.grad(loss, list(own.values()), create_graph=True)
            for _ in range(self.samples):
                signs = [_signs(g, generator) for g in gradient]
                products = torch.autograd.grad(
                    gradient, list(own.values()), grad_outputs=signs, retain_graph=True
                )
                for name, v, hv in zip(own, signs, products, strict=True):
                    total[name] += v * hv
                seen += 1
        return {n: t / seen * state.weights[n].square() / 2 for n, t in total.items()}


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(0, 2, like.shape, generator=generator)
    return (2 * drawn - 1).to(like)
