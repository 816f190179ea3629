"""How a Training is put, read, amended and resumed, wherever its files lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from lth.protocol import Result, Resume
from lth.store import checkpoints
from lth.store.stored import (
    DONE,
    FILL,
    DamagedError,
    Stored,
    digests_of_files,
    done_of,
    files_of,
    seal,
    state_file,
    unseal,
)
from lth.store.tensors import encode_state
from lth.training import Training
from lth.types import TrainState

CHECKPOINT = "checkpoint.safetensors"


class Folder(Protocol):
    """The files of one Training. A write is atomic: the old bytes or the new."""

    def read(self, name: str) -> bytes | None: ...

    def describe(self, name: str) -> str: ...

    def write(self, name: str, data: bytes) -> None: ...

    def delete(self, names: Iterable[str]) -> None: ...

    def names(self) -> list[str]: ...


class BlobStore:
    """The part of a store that does not depend on where bytes lie."""

    def folder(self, training_id: str) -> Folder:
        """Where a Training's files are; nothing is created."""
        raise NotImplementedError

    def get(self, training_id: str) -> Stored | None:
        """The Training with every file verified, or None where it is not committed.

        DamagedError names the first file that is not what was stored.
        """
        stored = self.peek(training_id)
        if stored is None:
            return None
        try:
            return stored.verify()
        except DamagedError:
            now = self.peek(training_id)
            if now is not None and now.done == stored.done:
                raise
            # Another process replaced it meanwhile.
            return self.get(training_id)

    def peek(self, training_id: str) -> Stored | None:
        """Like ``get``, but only ``done.json`` is verified now; other files when they are read."""
        folder = self.folder(training_id)
        data = folder.read(DONE)
        if data is None:
            return None
        done = unseal(data, folder.describe(DONE))
        if done["id"] != training_id:
            raise DamagedError(folder.describe(DONE), "belongs to another Training")
        return Stored(training_id, folder, done)

    def put(self, result: Result, *, observed: Mapping[str, Any]) -> Stored:
        """Write every file, then commit with ``done.json``; the checkpoint goes."""
        files = files_of(result)
        return self._commit(result.training.id, files, done_of(result, files, observed))

    def amend(self, stored: Stored, states: Mapping[str, TrainState]) -> Stored:
        """Add kept states to a committed Training, and commit again."""
        files = {
            state_file(name): encode_state(state, stored.packing(name))
            for name, state in states.items()
        }
        digests = {**stored.done["files"], **digests_of_files(files)}
        done = {**stored.done, "files": digests}
        if stored.dropped:
            done["dropped"] = [n for n in stored.dropped if n not in files]
        return self._commit(stored.id, files, done)

    def thin(self, stored: Stored) -> Stored:
        """Remove a committed Training's states; mask, metrics and predictions stay."""
        files: Mapping[str, str] = stored.done["files"]
        states = {n for n in files if n.startswith("keep_")} | {
            n for n in (state_file("start"), state_file("end"), FILL) if n in files
        }
        if not states:
            return stored
        kept = {n: digest for n, digest in files.items() if n not in states}
        dropped = sorted({*stored.dropped, *states})
        return self._commit(stored.id, {}, {**stored.done, "files": kept, "dropped": dropped})

    def _commit(
        self, training_id: str, files: Mapping[str, bytes], done: Mapping[str, Any]
    ) -> Stored:
        folder = self.folder(training_id)
        if files.keys() & set(folder.names()):
            # While a file is replaced, there is no Training.
            folder.delete([DONE])
        for name, data in files.items():
            folder.write(name, data)
        folder.write(DONE, seal(done))
        folder.delete(set(folder.names()) - done["files"].keys() - {DONE})
        return Stored(training_id, folder, done)

    def discard(self, training_id: str) -> None:
        """Forget a Training; ``done.json`` goes first."""
        folder = self.folder(training_id)
        folder.delete([DONE])
        folder.delete(folder.names())

    def load_checkpoint(self, training: Training, conditions: Mapping[str, Any]) -> Resume | None:
        """Where a killed training was, or None where there is nothing to go on from.

        ``conditions`` (numerics, what is watched) must be those it was saved
        under. DamagedError where there is a checkpoint that cannot be trusted.
        """
        folder = self.folder(training.id)
        data = folder.read(CHECKPOINT)
        if data is None:
            return None
        try:
            return checkpoints.decode(data, training, conditions)
        except ValueError as error:
            folder.delete([CHECKPOINT])
            raise DamagedError(folder.describe(CHECKPOINT), str(error)) from None

    def save_checkpoint(
        self, training: Training, resume: Resume, conditions: Mapping[str, Any]
    ) -> None:
        """Replace the Training's checkpoint."""
        data = checkpoints.encode(training, resume, conditions)
        self.folder(training.id).write(CHECKPOINT, data)
