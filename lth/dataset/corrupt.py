"""A task whose train split says nothing true any more: random labels, shuffled pixels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.dataset.task import Split, Task
from lth.stream import generator


@dataclass(frozen=True, eq=False)
class Relabelled:
    """A split with other labels ``y`` (n,)."""

    split: Split
    y: Tensor

    @property
    def labels(self) -> Tensor:
        return self.y

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.split.gather(indices)[0], self.y[indices]


@dataclass(frozen=True, eq=False)
class ShuffledPixels:
    """A split whose images each have their pixels in an order of their own, always the same.

    A pixel moves whole, with all of its channels, as in Zhang et al. (2017);
    the code of Su et al. (2020) shuffles the channels' values too.
    """

    split: Split
    seed: int

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    def __len__(self) -> int:
        return len(self.split)

    def gather(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.split.gather(indices)
        flat = x.flatten(2)
        order = orders(indices, flat.shape[2], self.seed)
        return flat.gather(2, order[:, None].expand_as(flat)).view_as(x), y


def orders(indices: Tensor, pixels: int, seed: int) -> Tensor:
    """A permutation (n, pixels) for each of the ``indices`` (n,), from ``seed`` alone.

    The ranks of hashes of (seed, index, pixel): no generator has to be wound to
    an example, on any device.
    """
    place = torch.arange(pixels, device=indices.device)
    return torch.argsort(_mix(_mix(indices[:, None] ^ seed) + place), dim=1, stable=True)


def _mix(value: Tensor) -> Tensor:
    """SplitMix64's finalizer (Steele et al. 2014), in int64 that wraps around."""
    value = value + -7046029254386353131  # 0x9E3779B97F4A7C15
    value = (value ^ _right(value, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    value = (value ^ _right(value, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return value ^ _right(value, 31)


def _right(value: Tensor, bits: int) -> Tensor:
    """A logical shift: int64 has only the arithmetic one."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def corrupt(task: Task, *, labels: bool, pixels: bool, seed: int) -> Task:
    """``task`` with its train split corrupted: ``labels`` uniformly drawn, ``pixels`` shuffled.

    Validation and test stay true. What was drawn is named in the task's spec.
    """
    train: Split = task.train
    if labels:
        own = train.labels
        drawn = torch.randint(
            task.num_classes, own.shape, generator=generator("corrupt", seed, "labels")
        )
        train = Relabelled(train, drawn.to(own.device))
    if pixels:
        train = ShuffledPixels(train, seed)
    done = {"labels": labels, "pixels": pixels, "seed": seed}
    return dataclasses.replace(task, train=train, spec={**task.spec, "corrupted": done})
