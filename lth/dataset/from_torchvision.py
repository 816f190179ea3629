"""Data sets that torchvision reads and fetches, as tensors, with our error messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lth.dataset.dataset import Raw


def open_parts(
    name: str,
    parts: Sequence[Callable[[], Any]],
    *,
    files: Sequence[Path],
    url: str,
    download: bool,
) -> list[Any]:
    """Torchvision's data set of each part; ``files`` are what they read.

    Raises FileNotFoundError where a file is absent, ValueError where all are
    there and one is damaged, and OSError where a download fails.
    """
    directory = files[0].parent
    try:
        return [part() for part in parts]
    except (OSError, HTTPException, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            raise OSError(
                f"{name}: dataset.download=true could not fetch {url} into {directory} "
                f"({reason}): set data_dir=... to where the files lie"
            ) from error
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{name}: {directory} lacks {', '.join(missing)}: "
                "set data_dir=... or dataset.download=true"
            ) from error
        raise ValueError(
            f"{name}: a file in {directory} is damaged ({reason}): delete the folder and "
            "set data_dir=... or dataset.download=true"
        ) from error


def read_cifar(name: str, data_dir: Path, *, num_classes: int, download: bool) -> Raw:
    """``torchvision.datasets.<name>``, one of the CIFARs, as (N, 3, 32, 32) uint8."""
    from lth.torchvision_import import torchvision

    source = getattr(torchvision().datasets, name)
    folder = Path(data_dir) / source.base_folder
    listed = [file for file, _ in source.train_list + source.test_list]
    train, test = open_parts(
        name,
        [partial(source, data_dir, train=part, download=download) for part in (True, False)],
        files=[folder / file for file in [*listed, source.meta["filename"]]],
        url=source.url,
        download=download,
    )
    return Raw(
        _images(train.data.transpose(0, 3, 1, 2)),
        torch.tensor(train.targets, dtype=torch.int64),
        _images(test.data.transpose(0, 3, 1, 2)),
        torch.tensor(test.targets, dtype=torch.int64),
        num_classes,
    )


def read_svhn(data_dir: Path, *, download: bool) -> Raw:
    """``torchvision.datasets.SVHN`` as (N, 3, 32, 32) uint8; the label of digit 0 is 0."""
    from lth.torchvision_import import torchvision

    source = torchvision().datasets.SVHN
    listed = [source.split_list[part] for part in ("train", "test")]
    train, test = open_parts(
        "SVHN",
        [partial(source, data_dir, split=part, download=download) for part in ("train", "test")],
        files=[Path(data_dir) / file for _, file, _ in listed],
        url=" and ".join(url for url, _, _ in listed),
        download=download,
    )
    return Raw(
        _images(train.data),
        torch.from_numpy(train.labels),
        _images(test.data),
        torch.from_numpy(test.labels),
        num_classes=10,
    )


def _images(x_NCHW: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x_NCHW))
