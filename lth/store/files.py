"""The store on disk. See docs/store.md for the layout."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from lth.store.blob_store import BlobStore
from lth.store.stored import DONE

_LOCK = ".lock"
KEEP_TENSORS = ("all", "masks", "last")


def write_atomically(path: Path, data: bytes) -> None:
    """Temporary name, fsync, rename: a reader sees the old bytes or the new ones.

    The temporary file is locked until it has its name, which tells it from those
    that killed processes left (``clear``).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    file = _hold(temporary, fcntl.LOCK_EX)
    assert file is not None
    with file:
        file.truncate(0)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)


def clear(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder; what is being written stays."""
    for stray in folder.rglob(".*.tmp"):
        with nullcontext(True) if stray.is_symlink() else locked(stray, wait=False) as mine:
            if mine:
                stray.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, wait: bool, shared: bool = False) -> Iterator[bool]:
    """An OS lock on ``path``, freed by the kernel when the process dies.

    Gives False where another holds it and ``wait`` is False. ``shared``: any
    number may hold it so at the same time, and then nobody holds it alone.
    """
    file = _hold(
        path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    )
    if file is None:
        yield False
        return
    with file:
        yield True


def _hold(path: Path, how: int) -> BinaryIO | None:
    """The locked file at ``path``; None where another process has it and ``how`` does not wait."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "ab")  # noqa: SIM115
        except FileNotFoundError:
            continue  # its folder was deleted meanwhile
        try:
            fcntl.flock(file, how)
            # The file may have been deleted while it was waited for; then this lock holds nothing.
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            return None
        except FileNotFoundError:
            pass
        file.close()


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
