"""Which examples an update sees: a function of the Training and the absolute step."""

from __future__ import annotations

import torch
from torch import Tensor

from lth.dataset.augment import augment, draw
from lth.stream import generator
from lth.training import Training


class Batches:
    """The batches of a Training, by absolute step.

    Epoch e is permuted by the stream ``(*order, "epoch", e)`` and augmented by
    ``(*augment, "epoch", e)``; both are drawn once per epoch on the CPU.
    """

    def __init__(self, training: Training, device: torch.device) -> None:
        self._training = training
        self._device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)
        self._augmentation: tuple[Tensor, ...] = ()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """``x`` (B, C, H, W), normalised and augmented, and ``y`` (B,) of update ``step``."""
        task = self._training.task
        epoch, within = divmod(step, task.updates_per_epoch)
        if epoch != self._epoch:
            self._load(epoch)
        rows = slice(within * task.batch_size, (within + 1) * task.batch_size)
        x, y = task.train.gather(self._order[rows])
        if self._augmentation:
            top, left, mirrored = (a[rows] for a in self._augmentation)
            x = augment(x, top=top, left=left, mirrored=mirrored, padding=task.crop)
        return x, y

    def _load(self, epoch: int) -> None:
        task, streams = self._training.task, self._training.streams
        order = generator(*streams["order"], "epoch", epoch)
        self._order = torch.randperm(len(task.train), generator=order).to(self._device)
        if task.crop or task.flip:
            stream = generator(*streams["augment"], "epoch", epoch)
            drawn = draw(len(task.train), crop=task.crop, flip=task.flip, generator=stream)
            self._augmentation = tuple(a.to(self._device) for a in drawn)
        self._epoch = epoch
