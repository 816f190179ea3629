"""The values of several networks in one vector.

The optimizer sees that one vector. Of sparse layers it holds the survivors only,
so nothing is moved or remembered for a pruned weight. It holds whole numbers of
ALIGN values, so that every element goes through the same vector instructions
whoever shares the cohort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALIGN = 64


def padded(size: int, to: int = ALIGN) -> int:
    """The next multiple."""
    return -(-size // to) * to


class Plan:
    """Places in a vector that is yet to be made."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, count: int) -> slice:
        """The next ``count`` places."""
        self.size += count
        return slice(self.size - count, self.size)

    def align(self) -> None:
        """Start what comes next at a multiple of ALIGN."""
        self.size = padded(self.size)


class Vector(nn.Module):
    """One parameter, ``values``, with a gradient that stays where it is."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(padded(size)))
        self.values.grad = torch.zeros(padded(size))

    @property
    def gradient(self) -> Tensor:
        assert self.values.grad is not None
        return self.values.grad


@dataclass(frozen=True, eq=False)
class Part:
    """Where one parameter of one network lies in a vector.

    ``index`` says which elements of the parameter, flattened, are held (the
    others are pruned): first those at ``live``, which get gradients, then those
    at ``idle``, which cannot matter to any loss, and which the optimizer moves
    all the same. None: all of them in their order, at ``live``.
    """

    shape: torch.Size
    live: slice
    idle: slice
    index: Tensor | None

    def write(self, vector: Tensor, values: Tensor) -> None:
        """Put a tensor of this parameter's shape into a vector."""
        flat = values.flatten() if self.index is None else values.flatten()[self.index]
        live = self.live.stop - self.live.start
        vector[self.live], vector[self.idle] = flat[:live], flat[live:]

    def read(self, vector: Tensor) -> Tensor:
        """A tensor of this parameter's shape (a copy), zero where it is pruned."""
        if self.index is None:
            return vector[self.live].view(self.shape).clone()
        full = torch.zeros(self.shape.numel(), dtype=vector.dtype)
        full[self.index] = torch.cat([vector[self.live], vector[self.idle]])
        return full.view(self.shape)


def total_norm(parts: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of several tensors together."""
    norms = torch.stack([torch.linalg.vector_norm(part) for part in parts])
    whole: Tensor = torch.linalg.vector_norm(norms)
    return whole
