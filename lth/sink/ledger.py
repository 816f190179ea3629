"""``<store>/run/<run_id>/wandb.json``: which lives W&B has seen of a run, and what they showed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lth.store.files import locked, write_atomically
from lth.store.run_folder import RunFolder
from lth.store.stored import seal, unseal


class Ledger:
    """Numbers the lives of a run and remembers what is mirrored already, and where to.

    A *part* is ``s<seed>`` or ``summary``; ``target`` names mode, entity and project.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.path / "wandb.json"
        self._lock = folder.store_root / "run" / f".{folder.run_id}.wandb.lock"

    def next_life(self) -> int:
        """A number that no other process has had or will get."""
        with locked(self._lock, wait=True):
            content = self._read()
            content["lives"] += 1
            self._write(content)
        return int(content["lives"] - 1)

    def shown(self, target: str) -> dict[str, str]:
        """The digest of what ``target`` holds complete, by part."""
        mirrored: Mapping[str, Any] = self._read()["mirrored"].get(target, {})
        return {part: entry["digest"] for part, entry in mirrored.items()}

    def newest(self) -> list[str]:
        """The ids of the W&B runs that show all of their parts, wherever they are."""
        targets = self._read()["mirrored"].values()
        return sorted({entry["run"] for target in targets for entry in target.values()})

    def note(self, target: str, part: str, *, digest: str, run: str) -> None:
        """``run`` now shows all of a part."""
        with locked(self._lock, wait=True):
            content = self._read()
            content["mirrored"].setdefault(target, {})[part] = {"digest": digest, "run": run}
            self._write(content)

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {"lives": 0, "mirrored": {}}
        return unseal(self.path.read_bytes(), str(self.path))

    def _write(self, content: Mapping[str, Any]) -> None:
        write_atomically(self.path, seal(content))
