"""A data set made ready for one seed: its splits, normalisation, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Split(Protocol):
    """Anything with a length that gathers examples by index.

    ``gather(indices)`` takes int64 indices (B,) on the split's device and gives
    ``x`` (B, C, H, W) float32, normalised, and ``y`` (B,) int64 on that device.
    ``labels`` are all of the ``y`` (n,). Where it has ``ahead(order, size)``,
    that gives what ``reader`` does, and may read on in the background.
    """

    @property
    def labels(self) -> Tensor: ...

    def __len__(self) -> int: ...

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]: ...


def reader(split: Split, order: Tensor, size: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    """A function that gathers the i-th ``size`` indices of ``order`` (int64, on the CPU)."""
    ahead = getattr(split, "ahead", None)
    if ahead is not None:
        read: Callable[[int], tuple[Tensor, Tensor]] = ahead(order, size)
        return read
    moved = order.to(split.labels.device)
    return lambda i: split.gather(moved[i * size : (i + 1) * size])


def in_chunks(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All examples in their order, ``size`` at a time."""
    read = reader(split, torch.arange(len(split)), size)
    return (read(i) for i in range(-(-len(split) // size)))


@dataclass(frozen=True, eq=False)
class Resident:
    """A split whose examples lie on the device.

    ``x`` (N, C, H, W) uint8 or float32 is shared by all splits and seeds;
    ``index`` (n,) says which rows are this split's; ``y`` (n,) are its labels;
    ``mean`` and ``std`` are (1, C, 1, 1) in units of ``x``.
    """

    x: Tensor
    y: Tensor
    index: Tensor
    mean: Tensor
    std: Tensor

    @property
    def labels(self) -> Tensor:
        return self.y

    def __len__(self) -> int:
        return self.index.numel()

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x = self.x[self.index[indices]]
        x = x.float() if x.dtype != torch.float32 else x
        return x.sub_(self.mean).div_(self.std), self.y[indices]


@dataclass(frozen=True, eq=False)
class First:
    """The first ``count`` examples of a split (all of a smaller one)."""

    split: Split
    count: int

    @property
    def labels(self) -> Tensor:
        return self.split.labels[: self.count]

    def __len__(self) -> int:
        return min(self.count, len(self.split))

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.gather(indices)

    def ahead(self, order: Tensor, size: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        return reader(self.split, order, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a Training learns from: the splits of one seed, the batch size, the augmentation.

    ``spec`` is the canonical JSON that enters the Training's id: the data
    set's options, the digest of its contents, the keys of its streams, the
    batch size. ``crop`` is the padding of the random crop in pixels (0 = none);
    ``flip`` mirrors half of the images left to right.
    """

    spec: Mapping[str, Any]
    train: Split
    validation: Split
    test: Split
    input_shape: tuple[int, int, int]
    num_classes: int
    batch_size: int
    crop: int = 0
    flip: bool = False

    @property
    def updates_per_epoch(self) -> int:
        """floor(n / batch_size); the rest of each permutation is dropped."""
        return len(self.train) // self.batch_size
