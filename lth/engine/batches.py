"""Which examples an update sees: a function of the Training and the absolute step."""

from __future__ import annotations

import torch
from torch import Tensor

from lth.dataset.augment import augment, draw
from lth.stream import generator
from lth.training import Training


def drawn(training: Training, epoch: int) -> tuple[Tensor, ...]:
    """An epoch's permutation of the train split and, where there is any, its augmentation.

    ``(order,)`` or ``(order, top, left, mirrored)``, each (n,), on the CPU.
    Drawn by the streams ``(*order, "epoch", e)`` and ``(*augment, "epoch", e)``.
    """
    task, streams = training.task, training.streams
    stream = generator(*streams["order"], "epoch", epoch)
    order = torch.randperm(len(task.train), generator=stream)
    if not (task.crop or task.flip):
        return (order,)
    stream = generator(*streams["augment"], "epoch", epoch)
    return order, *draw(len(task.train), crop=task.crop, flip=task.flip, generator=stream)


def batch_key(training: Training) -> object:
    """Equal for Trainings that see the same batches."""
    streams = training.streams
    return id(training.task), tuple(streams["order"]), tuple(streams["augment"])


class Batches:
    """The batches of a Training, by absolute step."""

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
        order, *augmentation = (d.to(self._device) for d in drawn(self._training, epoch))
        self._order, self._augmentation = order, tuple(augmentation)
        self._epoch = epoch
