"""Any user's pictures in class folders, decoded once and cached as one file of bytes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lth.dataset.dataset import DataSet, Raw
from lth.spec import canonical, content_id, tensor_digest
from lth.stream import generator

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".ppm")
MODES = {1: "L", 3: "RGB"}
"""Pillow's mode for each number of channels."""
FORMAT = 1
"""Part of the cache's key: raise it when the same files decode to other pixels."""
CHUNK = 64
"""Images per piece of work of a thread."""
SMALL = 16 * 1024
"""Files below so many bytes are read by one thread: more would only wait for each other's
lock (32x32 JPEG: 62 us an image with one thread, 83 us with two; 512x512: 758 and 499)."""
PAUSE = 5.0
"""Seconds between two lines of progress where there is no terminal."""

Listing: TypeAlias = dict[str, list[Path]]
"""The image files, sorted, of each class, sorted by name."""
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(DataSet):
    """``<data_dir>/{train,test}/<class>/<image>``, or ``<data_dir>/<class>/<image>``.

    Classes are numbered in the order of their names. In the second layout the
    fraction ``test`` of each class (at least one image, the same for every
    seed) becomes the test part. Hidden folders and files with other endings
    than ``SUFFIXES`` are passed over, as is anything beside train and test.

    ``size``: resize the shorter side to it (bilinear, antialiased), then cut
    out the centre; None wants all images of one size. ``channels``: 3 (RGB) or
    1 (grey). The first frame of an animation counts; EXIF rotation is not
    applied (both as in torchvision).

    Decoded pixels are cached, under the SHA-256 of all paths and bytes and the
    options above, in ``cache``, or else in ``<data_dir>/.lth-cache`` or, where
    that cannot be written, ``~/.cache/lth``. The files can be deleted at any time.
    """

    test: float = 0.2
    size: int | None = None
    channels: int = 3
    workers: int = field(default=2, metadata={"semantic": False})
    cache: str | None = field(default=None, metadata={"semantic": False})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.test < 1:
            raise ValueError(f"test: got {self.test}, allowed: 0 < test < 1")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size: got {self.size}, allowed: 1 or more pixels, or null")
        if self.channels not in MODES:
            raise ValueError(f"channels: got {self.channels}, allowed: 1, 3")
        if self.workers < 1:
            raise ValueError(f"workers: got {self.workers}, allowed: 1 or more threads")

    def read(self, data_dir: Path) -> Raw:
        """All images as (N, channels, H, W) uint8, from the cache where it has them.

        Raises FileNotFoundError where there are no class folders, and
        ValueError, naming the path, for what cannot be used.
        """
        root = Path(data_dir)
        train, test = self._layout(root)
        number = {name: label for label, name in enumerate(train)}
        labelled = [
            (path, number[name])
            for part in (train, test)
            for name, files in part.items()
            for path in files
        ]
        x = self._pixels(root, [path for path, _ in labelled])
        y = torch.tensor([label for _, label in labelled])
        if test:
            cut = sum(map(len, train.values()))
            return Raw(x[:cut], y[:cut], x[cut:], y[cut:], len(train))
        is_test = self._test_part(root, train, y)
        return Raw(x[~is_test], y[~is_test], x[is_test], y[is_test], len(train))

    def _layout(self, root: Path) -> tuple[Listing, Listing]:
        """The train and the test files; no test files where they are to be split off."""
        if not root.is_dir():
            raise FileNotFoundError(f"ImageFolder: no directory {root}: set data_dir=...")
        parts = [root / "train", root / "test"]
        if not any(part.is_dir() and _folders(part) for part in parts):
            return _listing(root), {}
        for part in parts:
            if not part.is_dir():
                raise FileNotFoundError(
                    f"ImageFolder: no directory {part}, though {root} has the other part: give "
                    "train and test, or class folders alone, of which a test part is split off"
                )
        train, test = _listing(parts[0]), _listing(parts[1], least=1)
        for name in test:
            if name not in train:
                raise ValueError(f"{parts[1] / name}: a class in test that {parts[0]} lacks")
        if self.test != ImageFolder.test:
            raise ValueError(
                f"test: got {self.test}, allowed: left out, as {parts[1]} is the test part"
            )
        return train, test

    def _test_part(self, root: Path, classes: Listing, y: Tensor) -> Tensor:
        """Which images (N,) bool are test: the first of each class in one fixed shuffle."""
        shuffled = torch.randperm(len(y), generator=generator("image_folder", "test"))
        is_test = torch.zeros(len(y), dtype=torch.bool)
        for label, (name, files) in enumerate(classes.items()):
            if len(files) < 2:
                raise ValueError(f"{root / name}: 1 image, needed: 2, one each for train and test")
            count = min(max(1, round(self.test * len(files))), len(files) - 1)
            is_test[shuffled[y[shuffled] == label][:count]] = True
        return is_test

    def _pixels(self, root: Path, paths: list[Path]) -> Tensor:
        """The images (N, C, H, W) uint8, cached or decoded."""
        key = self._key(root, paths)
        name = f"image_folder-{key[:32]}.safetensors"
        places = _places(root, self.cache)
        for place in places:
            found = _load(place / name, key)
            if found is not None:
                return found
        # Asked before the work, so that a wrong path does not cost a long decoding.
        home = next(filter(_writable, places), None)
        if home is None and self.cache is not None:
            raise OSError(f"cache: got {self.cache}, allowed: a directory that can be written")
        x = self._decode(paths)
        if home is None:
            log.warning("images not cached: cannot write to %s", " or ".join(map(str, places)))
        else:
            _save(home / name, key, x)
        return x

    def _key(self, root: Path, paths: list[Path]) -> str:
        # Bytes rather than times of change: copies share a cache, and no edit is missed.
        def digests(rows: range) -> list[str]:
            return [hashlib.sha256(paths[i].read_bytes()).hexdigest() for i in rows]

        parts = self._in_threads(digests, paths, title="checking images")
        names = [path.relative_to(root).as_posix() for path in paths]
        contents = [digest for part in parts for digest in part]
        return content_id([FORMAT, self.size, self.channels, names, contents])

    def _decode(self, paths: list[Path]) -> Tensor:
        first = decode(paths[0], size=self.size, channels=self.channels)
        out = np.empty((len(paths), *first.shape), dtype=np.uint8)

        def fill(rows: range) -> None:
            for i in rows:
                pixels = decode(paths[i], size=self.size, channels=self.channels)
                if pixels.shape != first.shape:
                    (height, width), (rule_height, rule_width) = pixels.shape[1:], first.shape[1:]
                    raise ValueError(
                        f"{paths[i]}: {width}x{height} pixels, but {paths[0].name} has "
                        f"{rule_width}x{rule_height}: set dataset.size=... to make them equal"
                    )
                out[i] = pixels

        self._in_threads(fill, paths, title="decoding images")
        return torch.from_numpy(out)

    def _in_threads(self, work: Callable[[range], T], paths: list[Path], *, title: str) -> list[T]:
        """``work`` of each chunk of rows of ``paths``, in order; the first fault is raised."""
        # Not processes: they would run a user's script again where it has no __main__ guard,
        # and each imports torch, which takes as long as it saves on 60,000 small images.
        chunks = [range(i, min(i + CHUNK, len(paths))) for i in range(0, len(paths), CHUNK)]
        results = []
        pool = ThreadPoolExecutor(1 if paths[0].stat().st_size < SMALL else self.workers)
        try:
            with progress(title, len(paths)) as advance:
                for chunk, result in zip(chunks, pool.map(work, chunks), strict=True):
                    results.append(result)
                    advance(len(chunk))
        finally:
            pool.shutdown(cancel_futures=True)
        return results


def decode(path: Path, *, size: int | None, channels: int) -> np.ndarray[Any, Any]:
    """One image file as (channels, H, W) uint8; ValueError, naming it, where it is not one."""
    try:
        with Image.open(path) as file:
            if file.mode[0] in "IF":
                raise ValueError(f"more than 8 bits a channel, mode {file.mode}")
            image = file.convert(MODES[channels])
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read as an image ({reason})") from error
    if size is not None:
        short = min(image.size)
        width, height = (size * side // short for side in image.size)
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _folders(directory: Path) -> list[Path]:
    return sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))


def _listing(directory: Path, least: int = 2) -> Listing:
    """The classes of ``directory``, at least ``least``, none of them empty."""
    found: Listing = {}
    for folder in _folders(directory):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
        found[folder.name] = [
            folder / n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")
        ]
        if not found[folder.name]:
            raise ValueError(f"{folder}: a class folder without images ({', '.join(SUFFIXES)})")
    if not found:
        raise FileNotFoundError(f"ImageFolder: no class folders in {directory}: set data_dir=...")
    if len(found) < least:
        raise ValueError(f"{directory}: got 1 class ({next(iter(found))}), needed: 2 or more")
    return found


def _places(root: Path, cache: str | None) -> list[Path]:
    """The directories where a cache may lie, the preferred one first."""
    if cache is not None:
        return [Path(cache).expanduser()]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [root / ".lth-cache", Path(home) / "lth"]


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _load(path: Path, key: str) -> Tensor | None:
    """The cached images; None where there are none, with a warning where they are damaged."""
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        return None
    try:
        with safe_open(path, framework="pt") as file:
            note = json.loads(file.metadata()["lth"])
            x: Tensor = file.get_tensor("x")
        if note == {"key": key, "digest": tensor_digest({"x": x})}:
            return x
        reason = "its contents differ from its digest"
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = str(error)
    log.warning("%s is damaged (%s): decoding the images again", path, reason)
    return None


def _save(path: Path, key: str, x: Tensor) -> None:
    """Write the cache under a temporary name, then rename it: readers see all or nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.{os.getpid()}")
    note = canonical({"key": key, "digest": tensor_digest({"x": x})})
    try:
        save_file({"x": x}, partial, metadata={"lth": note})
        partial.chmod(0o644)  # safetensors makes it private; the pictures' readers may share it
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        log.warning("images not cached in %s (%s)", path.parent, error)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, or now and then a line where that is no terminal."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
        return
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            sys.stderr.write(f"{title}: {done:,} of {total:,}\n")

    yield advance
