"""The store on disk. See docs/store.md for the layout."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lth.store.blob_store import BlobStore
from lth.store.stored import DONE

_LOCK = ".lock"
KEEP_TENSORS = ("all", "masks", "last")


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary name, fsync, rename: a reader sees the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """An OS lock on ``path``, freed by the kernel when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class _DiskFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def describe(self, name: str) -> str:
        return str(self.path / name)

    def write(self, name: str, data: bytes) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / name, data)

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return [p.name for p in self.path.iterdir() if p.name != _LOCK]


class FileStore(BlobStore):
    """``<root>/training/ab/abcdef.../``, one folder per Training, named by its id.

    ``keep_tensors`` says which states stay when a run has ended: ``all``; those of
    the dense networks and of the ``last`` level's tickets; or those of the dense
    networks only (``masks``). Nothing is written before the first Training is. Locks are one per
    Training, so that processes can share a run.
    """

    def __init__(self, root: str | Path = "results", keep_tensors: str = "all") -> None:
        if keep_tensors not in KEEP_TENSORS:
            raise ValueError(
                f"keep_tensors: got {keep_tensors!r}, allowed: {', '.join(KEEP_TENSORS)}"
            )
        self.root = Path(root)
        self.keep_tensors = keep_tensors

    def folder(self, training_id: str) -> _DiskFolder:
        return _DiskFolder(self.root / "training" / training_id[:2] / training_id)

    def ids(self) -> list[str]:
        """The ids of all committed Trainings."""
        return sorted(p.parent.name for p in self.root.glob(f"training/*/*/{DONE}"))

    @contextmanager
    def lock(self, training_id: str, *, wait: bool) -> Iterator[bool]:
        """Hold a Training; gives False where another process does and ``wait`` is False."""
        with locked(self.folder(training_id).path / _LOCK, wait=wait) as held:
            yield held
