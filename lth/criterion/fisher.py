"""Fisher: the curvature of the loss by squared gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lth.gradient import Batches, Forward, check_batches, mean_over_examples
from lth.history import History
from lth.types import Mask, Scores


@dataclass(frozen=True, kw_only=True)
class Fisher:
    """The mean over *examples* of ``g^2``, times ``w^2 / 2`` (Theis et al. 2018).

    ``labels``: ``data`` (the empirical Fisher) or ``model`` (the true one, classes
    drawn from the network's own prediction). Over ``num_batches`` training batches
    (null: an epoch); modules are in eval mode.
    """

    num_batches: int | None = 10
    labels: str = "data"

    def __post_init__(self) -> None:
        check_batches(self.num_batches)
        if self.labels not in ("data", "model"):
            raise ValueError(f"labels: got {self.labels!r}, allowed: data, model")

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

        def of(name: str, g: Tensor) -> Tensor:
            return g.square()

        def label(logits: Tensor, y: Tensor) -> Tensor:
            if self.labels == "data":
                return y
            chances = logits.softmax(1).cpu()
            return torch.multinomial(chances, 1, generator=generator).squeeze(1).to(y.device)

        squares = mean_over_examples(
            state, mask, forward, batches, self.num_batches, of=of, label=label
        )
        return {n: s * state.weights[n].square() / 2 for n, s in squares.items()}
