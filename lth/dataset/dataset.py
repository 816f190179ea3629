"""What all data sets share: the options, the splits and their normalisation."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lth.dataset.streamed import Streamed
from lth.dataset.task import Resident, Split, Task
from lth.spec import spec, tensor_digest
from lth.stream import Key, generator

CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,), (1.0,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Named per-channel mean and std, in units of pixels scaled to [0, 1]."""


@dataclass(frozen=True, eq=False)
class Raw:
    """A data set as read: images (N, C, H, W) uint8 or float32, labels (N,) int64.

    ``scale`` is the pixel value that means 1.0 (255 for bytes, 16 for digits).
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    num_classes: int
    scale: float = 255.0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the contents."""
        return tensor_digest(
            {
                "x_train": self.x_train,
                "y_train": self.y_train,
                "x_test": self.x_test,
                "y_test": self.y_test,
            }
        )

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Per image and channel: sum and sum of squares of the train pixels, (N, C) float64."""
        sums, squares = [], []
        images = self.x_train.cpu()
        # As many at a time as the core's own cache holds in float64.
        for chunk in torch.split(images, max(1, 2**16 // max(1, images[0].numel()))):
            pixels = chunk.flatten(2).double()
            sums.append(pixels.sum(2))
            squares.append(pixels.square().sum(2))
        return torch.cat(sums), torch.cat(squares)

    def to(self, device: torch.device, *, streamed: bool = False) -> Raw:
        """The same data on ``device`` (labels only: ``streamed``); digest and moments go along."""
        where = torch.device("cpu") if streamed else device
        if self.x_train.device == where and self.y_train.device == device:
            return self
        moved = Raw(
            self.x_train.to(where),
            self.y_train.to(device),
            self.x_test.to(where),
            self.y_test.to(device),
            self.num_classes,
            self.scale,
        )
        moved.__dict__["digest"] = self.digest
        moved.__dict__["moments"] = self.moments
        return moved


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Options that every data set understands. A data set adds ``read``.

    ``validation`` is the part of train that is held out: a count, or a fraction
    below 1. ``subsample`` keeps that fraction of train; ``random_labels`` gives
    that fraction of train a uniformly drawn label; both act on train only,
    after the split, once per seed. ``normalize``: ``train`` (per-channel mean
    and std of the train split), ``unit`` (pixels scaled to [0, 1]) or the name
    of constants. ``crop`` pads by so many pixels and crops at random; ``flip``
    mirrors half of the images. ``streamed`` leaves the images in the computer's
    memory and moves them to the device batch by batch, for data too large for it.
    """

    validation: int | float = 0.1
    subsample: float = 1.0
    random_labels: float = 0.0
    normalize: str = "train"
    crop: int = 0
    flip: bool = False
    streamed: bool = field(default=False, metadata={"semantic": False})

    def __post_init__(self) -> None:
        if not self.validation > 0:
            raise ValueError(f"validation: got {self.validation}, allowed: above 0")
        if isinstance(self.validation, float) and not self.validation < 1:
            raise ValueError(
                f"validation: got {self.validation}, allowed: a fraction below 1 or a whole count"
            )
        if not 0 < self.subsample <= 1:
            raise ValueError(f"subsample: got {self.subsample}, allowed: 0 < subsample <= 1")
        if not 0 <= self.random_labels <= 1:
            raise ValueError(f"random_labels: got {self.random_labels}, allowed: 0 to 1")
        if self.normalize != "train" and self.normalize not in CONSTANTS:
            raise ValueError(
                f"normalize: got {self.normalize!r}, allowed: train, {', '.join(CONSTANTS)}"
            )
        if self.crop < 0:
            raise ValueError(f"crop: got {self.crop}, allowed: 0 or more pixels")

    def read(self, data_dir: Path) -> Raw:
        """The whole data set as tensors; FileNotFoundError names what is missing."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is read")

    def task(self, raw: Raw, *, seed: int, batch_size: int, split: int | None = None) -> Task:
        """The splits of one seed. ``split`` overrides the seed of the split's stream.

        Raises ValueError where the train split cannot fill one batch.
        """
        key: Key = (seed if split is None else split,)
        train, held_out = self._split(len(raw.y_train), key)
        labels = raw.y_train.cpu()[train]
        if self.random_labels:
            noise = generator("random_labels", *key)
            chosen = torch.rand(len(labels), generator=noise) < self.random_labels
            drawn = torch.randint(raw.num_classes, labels.shape, generator=noise)
            labels = torch.where(chosen, drawn, labels)
        if not 1 <= batch_size <= len(train):
            raise ValueError(
                f"batch_size: got {batch_size}, allowed: 1 to {len(train)} (the train split)"
            )
        mean, std = self._normalization(raw, train)
        device = raw.y_train.device
        home = raw.x_train.device
        if self.streamed and home.type != "cpu":
            raise ValueError(f"streamed: got true for images on {home}, allowed: on the CPU")
        kind = Streamed if self.streamed else Resident

        def ready(x: Tensor, y: Tensor, index: Tensor) -> Split:
            return kind(x, y.to(device), index.to(home), mean.to(device), std.to(device))

        return Task(
            spec={
                "dataset": spec(self),
                "data": raw.digest,
                "split": list(key),
                "batch_size": batch_size,
            },
            train=ready(raw.x_train, labels, train),
            validation=ready(raw.x_train, raw.y_train.cpu()[held_out], held_out),
            test=ready(raw.x_test, raw.y_test, torch.arange(len(raw.y_test))),
            input_shape=tuple(raw.x_train.shape[1:]),  # type: ignore[arg-type]
            num_classes=raw.num_classes,
            batch_size=batch_size,
            crop=self.crop,
            flip=self.flip,
        )

    def _split(self, n: int, key: Key) -> tuple[Tensor, Tensor]:
        held = self.validation if isinstance(self.validation, int) else round(self.validation * n)
        if not 0 < held < n:
            raise ValueError(f"validation: got {self.validation}, allowed: 1 to {n - 1} of {n}")
        order = torch.randperm(n, generator=generator("split", *key))
        train = order[held:]
        if self.subsample < 1:
            count = max(1, round(self.subsample * len(train)))
            pick = torch.randperm(len(train), generator=generator("subsample", *key))[:count]
            train = train[pick]
        return train.sort().values, order[:held].sort().values

    def _normalization(self, raw: Raw, train: Tensor) -> tuple[Tensor, Tensor]:
        channels = raw.x_train.shape[1]
        if self.normalize == "train":
            sums, squares = raw.moments
            pixels = len(train) * raw.x_train[0, 0].numel()
            mean = sums[train].sum(0) / pixels
            std = (squares[train].sum(0) / pixels - mean.square()).clamp_min(0).sqrt()
            std = torch.where(std > 0, std, torch.ones_like(std))
        else:
            means, stds = CONSTANTS[self.normalize]
            if len(means) not in (1, channels):
                raise ValueError(
                    f"normalize: got {self.normalize!r} ({len(means)} channels), allowed: "
                    f"constants for {channels} channels"
                )
            mean = torch.tensor(means, dtype=torch.float64).expand(channels) * raw.scale
            std = torch.tensor(stds, dtype=torch.float64).expand(channels) * raw.scale
        return mean.float().reshape(1, -1, 1, 1), std.float().reshape(1, -1, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Downloadable(DataSet):
    """A data set that can be fetched where it is absent, if the user asks for it."""

    download: bool = field(default=False, metadata={"semantic": False})
