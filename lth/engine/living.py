"""Which units of a perceptron can matter. The others are left out of its products, exactly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def living(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> list[Tensor]:
    """The living inputs, then the living units of each layer: (units,) bool each.

    ``weights`` are the masks (out, in) of a Linear-ReLU network's layers,
    ``biases`` (out,) those of their biases, None where a layer has none.

    An input or hidden unit without a path of live weights to the output changes
    no loss, and no loss changes what leads to it: those gradients are exactly
    zero. A hidden unit without live inputs is a trained constant and lives, except
    where it has no live bias: then it is zero, and so are the gradients around
    it (relu'(0) = 0). An input that is zero in all of the data lives. All outputs
    live. What the optimizer does without a gradient (momentum, weight decay) is
    not this function's concern.
    """
    fed = [torch.ones(weights[0].shape[1], dtype=torch.bool)]
    for weight, bias in zip(weights, biases, strict=True):
        reached = weight[:, fed[-1]].any(1)
        fed.append(reached if bias is None else reached | bias)
    needed = [torch.ones_like(weights[-1][:, 0], dtype=torch.bool)]
    for weight in reversed(weights):
        needed.append(weight[needed[-1]].any(0))
    needed.reverse()
    inner = [f & n for f, n in zip(fed[1:-1], needed[1:-1], strict=True)]
    return [needed[0], *inner, needed[-1]]
