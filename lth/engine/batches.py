"""Which examples an update sees: a function of the Training and the absolute step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lth.dataset.augment import augment, draw
from lth.dataset.task import reader
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
    """The batches of a Training, by absolute step.

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
        task = self._training.task
        order, *augmentation = drawn(self._training, epoch)
        batches = torch.arange(task.updates_per_epoch * task.batch_size)
        own = batches.view(-1, task.batch_size)[:, self._share].flatten()
        self._read = reader(task.train, order[own], self._size)
        self._augmentation = tuple(a[own].to(self._device) for a in augmentation)
        self._epoch = epoch
