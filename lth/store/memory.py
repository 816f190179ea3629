"""A store in memory: the same bytes as on disk, for tests and notebooks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lth.store.blob_store import BlobStore
from lth.store.stored import DONE


class _MemoryFolder(dict[str, bytes]):
    def read(self, name: str) -> bytes | None:
        return self.get(name)

    def describe(self, name: str) -> str:
        return name

    def write(self, name: str, data: bytes) -> None:
        self[name] = data

    def delete(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.pop(name, None)

    def names(self) -> list[str]:
        return list(self)


class MemoryStore(BlobStore):
    """Keeps Trainings as long as it lives."""

    def __init__(self) -> None:
        self._folders: dict[str, _MemoryFolder] = defaultdict(_MemoryFolder)

    def folder(self, training_id: str) -> _MemoryFolder:
        return self._folders[training_id]

    def ids(self) -> list[str]:
        """The ids of all committed Trainings."""
        return [i for i, folder in self._folders.items() if DONE in folder]

    @contextmanager
    def lock(self, training_id: str, *, wait: bool) -> Iterator[bool]:
        """Nobody else can see this store, so the lock is always free."""
        yield True
