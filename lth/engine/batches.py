"""Which examples an update sees: a function of the Training and the absolute step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lth.dataset.augment import augment, draw
from lth.dataset.task import reader
from lth.stream import generator
from lth.training import Training


class Batches:
    """The batches of a Training, by absolute step.

    Epoch e is permuted by the stream ``(*order, "epoch", e)`` and augmented by
    ``(*augment, "epoch", e)``; both are drawn once per epoch on the CPU.
    ``share`` says which examples of each batch are given (default: all).
    """

    def __init__(
        self, training: Training, device: torch.device, share: slice = slice(None)
    ) -> None:
        self._training = training
        self._device = device
        self._share = share
        self._size = len(range(training.task.batch_size)[share])
        self._epoch = -1
        self._read: Callable[[int], tuple[Tensor, Tensor]]
        self._augmentation: tuple[Tensor, ...] = ()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``x`` (B, C, H, W), normalised and augmented, and ``y`` (B,) of update ``step``."""
        task = self._training.task
        epoch, within = divmod(step, task.updates_per_epoch)
        if epoch != self._epoch:
            self._load(epoch)
        x, y = self._read(within)
        if self._augmentation:
            rows = slice(within * self._size, (within + 1) * self._size)
            top, left, mirrored = (a[rows] for a in self._augmentation)
            x = augment(x, top=top, left=left, mirrored=mirrored, padding=task.crop)
        return x, y

    def _load(self, epoch: int) -> None:
        task, streams = self._training.task, self._training.streams
        order = generator(*streams["order"], "epoch", epoch)
        permutation = torch.randperm(len(task.train), generator=order)
        batches = torch.arange(task.updates_per_epoch * task.batch_size)
        own = batches.view(-1, task.batch_size)[:, self._share].flatten()
        self._read = reader(task.train, permutation[own], self._size)
        if task.crop or task.flip:
            stream = generator(*streams["augment"], "epoch", epoch)
            drawn = draw(len(task.train), crop=task.crop, flip=task.flip, generator=stream)
            self._augmentation = tuple(a[own].to(self._device) for a in drawn)
        self._epoch = epoch
