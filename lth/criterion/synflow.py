"""SynFlow: data-free, layers keep their flow."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lth.gradient import Batches, Forward
from lth.history import History
from lth.types import Mask, Scores, TrainState


@dataclass(frozen=True, kw_only=True)
class SynFlow:
    """``abs(dR/dw * w)``, ``R = sum(f(1))`` of the network of absolute values (Tanaka et al. 2020).

    Shifts (biases, norms' shifts) and running means are 0, everything is in
    float64 and eval mode, the input is all ones. As published it is applied in
    100 exponential steps: ``score_steps=100``.
    """

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
        x = next(batches())[0]
        ones = torch.ones((1, *x.shape[1:]), dtype=torch.float64, device=x.device)
        weights = {
            n: torch.zeros_like(w, dtype=torch.float64) if _shift(n) else w.double().abs()
            for n, w in state.weights.items()
        }
        own = {n: weights[n].clone().requires_grad_() for n in mask}
        buffers = {
            n: torch.zeros_like(b) if n.endswith("running_mean") else b
            for n, b in state.buffers.items()
        }
        buffers = {n: b.double() if b.is_floating_point() else b for n, b in buffers.items()}
        linear = TrainState(step=state.step, weights={**weights, **own}, buffers=buffers)
        flow = forward(linear, ones, train=False).sum()
        gradient = torch.autograd.grad(flow, list(own.values()))
        return {n: (g * w.detach()).abs() for (n, w), g in zip(own.items(), gradient, strict=True)}


def _shift(name: str) -> bool:
    return name.rpartition(".")[2] == "bias"
