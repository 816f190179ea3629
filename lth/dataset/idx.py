"""The idx file format of MNIST and its relatives, plain or gzipped, without torchvision."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lth.dataset.dataset import Downloadable, Raw
from lth.option import at_least

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TIMEOUT = 60.0
"""Seconds without an answer before a mirror counts as failed."""


@dataclass(frozen=True, kw_only=True)
class Idx(Downloadable):
    """Grey images and labels in the four files of MNIST's layout.

    Looked for in ``<data_dir>/<folder>/raw`` (where torchvision puts them),
    ``<data_dir>/<folder>`` and ``<data_dir>``, in this order; all four must lie
    in one of them. ``mirrors`` are URL prefixes; ``MD5`` holds the published
    checksums of the archives (of a download only: a user may have packed the
    same files again).
    """

    folder: str = "MNIST"
    classes: int = 10
    mirrors: tuple[str, ...] = field(default=(), metadata={"semantic": False})

    MD5: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("classes", self.classes, 2)
        if self.download and not self.mirrors:
            raise ValueError("download: got True, allowed: False (mirrors is empty)")

    def read(self, data_dir: Path) -> Raw:
        """The four files as tensors.

        Raises FileNotFoundError where they are absent, OSError where a download
        fails, and ValueError, naming the file, where one is malformed.
        """
        home = Path(data_dir) / self.folder / "raw"
        places = (home, home.parent, Path(data_dir))
        found = next((f for f in map(_files, places) if len(f) == len(FILES)), None)
        if found is None and self.download:
            for name in FILES:
                if name not in _files(home):
                    self._download(home, name)
            found = _files(home)
        if found is None:
            missing = [name for name in FILES if name not in _files(home)]
            raise FileNotFoundError(
                f"{type(self).__name__}: {home} lacks {', '.join(missing)} (or .gz), and neither "
                f"{home.parent} nor {data_dir} holds all four files: "
                "set data_dir=... or dataset.download=true"
            )
        x_train, y_train, x_test, y_test = self._parts(*(found[name] for name in FILES))
        return Raw(x_train, y_train, x_test, y_test, self.classes)

    def _parts(self, *paths: Path) -> list[Tensor]:
        parts: list[Tensor] = []
        for images, labels in (paths[:2], paths[2:]):
            x, y = read_idx(images, dimensions=3).unsqueeze(1), read_idx(labels, dimensions=1)
            if len(x) != len(y) or not len(x):
                raise ValueError(
                    f"{labels}: got {len(y)} labels, allowed: 1 for each of the "
                    f"{len(x)} images of {images.name}"
                )
            if int(y.max()) >= self.classes:
                raise ValueError(
                    f"{labels}: got label {int(y.max())}, allowed: 0 to {self.classes - 1}"
                )
            if parts and parts[0].shape[1:] != x.shape[1:]:
                raise ValueError(
                    f"{images}: got images of {list(x.shape[2:])} pixels, "
                    f"allowed: {list(parts[0].shape[2:])}, as in {paths[0].name}"
                )
            parts += [x, y.long()]
        return parts

    def _download(self, home: Path, name: str) -> None:
        """Fetch one archive from the first mirror that has it; OSError where none does."""
        archive, reasons = f"{name}.gz", []
        for mirror in self.mirrors:
            url = f"{mirror.rstrip('/')}/{archive}"
            partial = home / f".{archive}.{os.getpid()}"
            try:
                home.mkdir(parents=True, exist_ok=True)
                request = urllib.request.Request(url, headers={"User-Agent": "lth"})
                with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                    content = answer.read()
                digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
                if self.MD5.get(name, digest) != digest:
                    raise OSError(f"MD5 is {digest}, published is {self.MD5[name]}")
                partial.write_bytes(content)
                os.replace(partial, home / archive)
                return
            except (OSError, HTTPException) as error:
                partial.unlink(missing_ok=True)
                reasons.append(f"{url}: {str(error) or type(error).__name__}")
        raise OSError(
            f"{type(self).__name__}: dataset.download=true could not fetch {archive} into {home} "
            f"({'; '.join(reasons)}): set data_dir=... to where the files lie"
        )


def _files(place: Path) -> dict[str, Path]:
    """The files of the layout that ``place`` holds; a plain one goes before a gzipped one."""
    found: dict[str, Path] = {}
    for name in FILES:
        for path in (place / name, place / f"{name}.gz"):
            if path.is_file():
                found.setdefault(name, path)
    return found


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """An idx file of unsigned bytes as a uint8 tensor; ValueError where it is malformed."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error})") from error
    magic = bytes((0, 0, 8, dimensions))  # 8: unsigned bytes
    head = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < head:
        raise ValueError(
            f"{path}: got idx header {content[:4].hex()!r} in {len(content)} bytes, "
            f"allowed: {magic.hex()!r} (uint8, {dimensions} dimensions)"
        )
    shape = [int(n) for n in np.frombuffer(content[4:head], dtype=">u4")]
    if len(content) - head != math.prod(shape):
        raise ValueError(
            f"{path}: got {len(content) - head} bytes of data, "
            f"allowed: {math.prod(shape)} for the shape {shape} in its header"
        )
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=head).copy()).view(shape)
