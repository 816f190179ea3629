"""A split whose examples stay in memory or on disk and reach the device batch by batch."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

DEPTH = 3
"""Batches that are fetched ahead of the one that is asked for."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """A split with ``x`` (N, C, H, W) and ``index`` (n,) on the CPU, the rest on the device.

    ``x`` may be memory-mapped. The bytes travel as they are and are normalised
    on the device, so the numbers are those of ``Resident``.
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
        rows = indices.cpu()
        return self.arrive(self.fetch(rows), rows)

    def ahead(self, order: Tensor, size: int) -> Ahead:
        """Reads the i-th ``size`` indices of ``order``, the next ones in the background."""
        return Ahead(self, order, size)

    def fetch(self, rows: Tensor) -> Tensor:
        """The images of some indices on the CPU, pinned where the device is CUDA."""
        shape = (len(rows), *self.x.shape[1:])
        out = torch.empty(shape, dtype=self.x.dtype, pin_memory=self.y.device.type == "cuda")
        return torch.index_select(self.x, 0, self.index[rows], out=out)

    def arrive(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Fetched images on the device, normalised (in place on the CPU), and their labels."""
        x = images.to(self.y.device, non_blocking=True)
        x = x.float() if x.dtype != torch.float32 else x
        y = self.y[rows.to(self.y.device, non_blocking=True)]
        return x.sub_(self.mean).div_(self.std), y


class Ahead:
    """Batches of a streamed split in a known order. A thread fetches the next ones meanwhile."""

    def __init__(self, split: Streamed, order: Tensor, size: int) -> None:
        self._split = split
        self._rows = torch.split(order, size)
        self._fetched: dict[int, Future[Tensor]] = {}
        # It ends when nobody refers to it any more.
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, i: int) -> tuple[Tensor, Tensor]:
        """Batch ``i``; any may be asked for, but only those in order are there at once."""
        wanted = range(i, min(i + 1 + DEPTH, len(self._rows)))
        self._fetched = {j: f for j, f in self._fetched.items() if j in wanted}
        for j in wanted:
            if j not in self._fetched:
                self._fetched[j] = self._thread.submit(self._split.fetch, self._rows[j])
        return self._split.arrive(self._fetched.pop(i).result(), self._rows[i])
