"""``<store>/run/<run_id>/``: the configuration, the invocations, and a reference per Training."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from lth.config import run_id
from lth.paths import conf_dir
from lth.store.files import FileStore, clear, locked, write_atomically
from lth.store.stored import DamagedError, Stored, seal, unseal
from lth.training import STORE_VERSION, Training
from lth.types import Ticket

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Where a Training stands in a run. See docs/store.md for the fields."""

    run_id: str
    seed: int
    variant: str
    draw: int
    level: int
    parent_level: int | None
    density: float
    search_steps: int
    options: Mapping[str, Any] | None
    training: str


class RunFolder:
    """One run on disk. It holds no results: those are in the store's Trainings."""

    def __init__(self, root: Path, run_id: str) -> None:
        self.store_root = root
        self.run_id = run_id
        self.path = root / "run" / run_id
        self.say: Callable[[str], None] = print
        """Takes one-line notices of damage that was repaired."""

    @property
    def report(self) -> Path:
        """Where tables and figures go."""
        return self.path / "report"

    def info(self) -> dict[str, Any] | None:
        """``run.json``, or None where the run has not begun; DamagedError where it is damaged."""
        path = self.path / "run.json"
        return unseal(path.read_bytes(), str(path)) if path.exists() else None

    def config(self) -> dict[str, Any]:
        """The semantic configuration, exactly what the run_id hashes; else DamagedError."""
        path = self.path / "config.yaml"
        try:
            data: dict[str, Any] = yaml.safe_load(path.read_bytes())
            if run_id(data) == self.run_id:
                return data
        except FileNotFoundError:
            raise DamagedError(str(path), "missing") from None
        except (yaml.YAMLError, ValueError):
            pass
        raise DamagedError(str(path), "does not match the run_id")

    def begin(
        self, semantic: Mapping[str, Any], data_digest: str, invocation: Mapping[str, Any]
    ) -> None:
        """Note one more invocation. ValueError where the run was begun on other data."""
        with self._locked():
            info = self._repaired(self.info) or {
                "store_version": STORE_VERSION,
                "data": data_digest,
                "invocations": [],
            }
            if info["data"] != data_digest:
                raise ValueError(
                    f"run {self.run_id} was begun on data with digest {info['data'][:12]}, these "
                    f"have {data_digest[:12]}: use another store.root, or bring the old data back"
                )
            self.path.mkdir(parents=True, exist_ok=True)
            clear(self.path)
            text = yaml.safe_dump(dict(semantic), sort_keys=True)
            write_atomically(self.path / "config.yaml", text.encode())
            info["invocations"].append(dict(invocation))
            write_atomically(self.path / "run.json", seal(info))

    def at_work(self) -> AbstractContextManager[bool]:
        """Held while a process adds to the run: what it found may have no reference yet."""
        return locked(self._in_use, wait=True, shared=True)

    def alone(self) -> AbstractContextManager[bool]:
        """Gives whether no process is ``at_work``, and keeps it so: others wait to begin."""
        return locked(self._in_use, wait=False)

    @property
    def _in_use(self) -> Path:
        return self.store_root / "run" / f".{self.run_id}.at_work.lock"

    def _locked(self) -> AbstractContextManager[bool]:
        return locked(self.store_root / "run" / f".{self.run_id}.lock", wait=True)

    def _repaired(self, read: Callable[[], T | None]) -> T | None:
        """What ``read`` reads, or None for what is damaged and now written anew."""
        try:
            return read()
        except DamagedError as damage:
            self.say(f"damaged: {damage}; it is written anew")
            return None

    def file(self, seed: int, variant: str, level: int, draw: int) -> Path:
        """A reference's file: ``seed_000/ticket/level_03.json``, ``..._draw_1.json``."""
        suffix = f"_draw_{draw}" if draw else ""
        return self.path / f"seed_{seed:03d}" / variant / f"level_{level:02d}{suffix}.json"

    def refer(self, reference: Reference) -> Reference | None:
        """Write a reference and its link; gives the one it replaces where that differed.

        ValueError where the name is taken by a control with other options.
        """
        path = self.file(reference.seed, reference.variant, reference.level, reference.draw)
        link = path.with_suffix("")
        folder = FileStore(self.store_root).folder(reference.training).path
        target = os.path.relpath(folder, link.parent)
        with self._locked():
            old = self._repaired(lambda: read_reference(path)) if path.exists() else None
            if old is not None and old.options != reference.options:
                raise ValueError(
                    f"baseline.{reference.variant}: this run already has a control of that name "
                    f"with the options {old.options}; give this one another name"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            if old != reference:
                write_atomically(path, seal(asdict(reference)))
            if not link.is_symlink() or os.readlink(link) != target:
                temporary = link.with_name(f".{link.name}.tmp")
                temporary.unlink(missing_ok=True)
                temporary.symlink_to(target)
                os.replace(temporary, link)
        return None if old == reference else old

    def references(self) -> Iterator[Reference]:
        """All references of the run, by seed, variant, level and draw."""
        for path in sorted(self.path.glob("seed_*/*/level_*.json")):
            yield read_reference(path)


def read_reference(path: Path) -> Reference:
    """A reference file; DamagedError where it is not what was stored."""
    try:
        return Reference(**unseal(path.read_bytes(), str(path)))
    except TypeError:
        raise DamagedError(str(path), "is not a reference") from None


def runs(root: str | Path) -> list[RunFolder]:
    """All runs of a store."""
    root = Path(root)
    return [RunFolder(root, p.parent.name) for p in sorted(root.glob("run/*/run.json"))]


def invocation(command: Sequence[str], **facts: Any) -> dict[str, Any]:
    """What ``run.json`` notes of one call: command, commit, versions, time."""
    checkout = conf_dir().parent
    commit = None
    if (checkout / ".git").exists():
        git = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "command": list(command),
        "commit": commit or None,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": platform.platform(),
        **facts,
    }


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stored Training is: its store, its id, and the reference that led to it."""

    store: FileStore
    training: str
    reference: Reference | None

    def stored(self) -> Stored:
        """The Training, every file checked; FileNotFoundError where the store lacks it."""
        stored = self.store.get(self.training)
        if stored is None:
            raise FileNotFoundError(f"{self.store.folder(self.training).path}: no stored Training")
        return stored


def locate(path: str | Path, store: str | Path = "results") -> Place:
    """The Training that ``path`` means, read no further than its reference.

    ``path``: a Training's folder, a link to it, a reference's JSON file, or a
    place in a run named by a unique run_id prefix (``25d4/seed_000/ticket/level_07``)
    in ``store``. FileNotFoundError where there is no such thing.
    """
    path = Path(path)
    if not path.exists() and len(path.parts) == 4:
        hits = [r.path for r in runs(store) if r.run_id.startswith(path.parts[0])]
        if len(hits) == 1:
            path = hits[0].joinpath(*path.parts[1:])
    named = path if path.is_file() else path.with_name(f"{path.name}.json")
    if named.is_file():
        # <root>/run/<run_id>/seed_000/<variant>/level_00.json
        reference = read_reference(named)
        root = Path(*named.resolve().parts[:-5])
        return Place(store=FileStore(root), training=reference.training, reference=reference)
    # <root>/training/ab/abcdef..., whatever links lead there
    real = path.resolve()
    if not real.is_dir() or len(real.parts) < 4 or real.parts[-3] != "training":
        raise FileNotFoundError(f"{path}: no stored Training")
    return Place(store=FileStore(Path(*real.parts[:-3])), training=real.name, reference=None)


def load_ticket(path: str | Path) -> Ticket:
    """The ticket (mask and masked start) of a stored Training, wherever ``locate`` finds it.

    Every file is checked; DamagedError names one that is damaged,
    FileNotFoundError a path that holds no Training.
    """
    return locate(path).stored().ticket()


def find_trainings(store: FileStore | str | Path, **where: Any) -> list[Stored]:
    """The stored Trainings that some reference or their own spec matches.

    Keys: the fields of ``Reference`` (``run_id``, ``seed``, ``variant``, ``draw``,
    ``level``, ...), ``status``, ``id``, or top-level keys of the spec
    (``first_step``, ``precision``, ...). ValueError for any other key.
    """
    store = store if isinstance(store, FileStore) else FileStore(store)
    of_reference = {f.name for f in fields(Reference)}
    of_training = {f.name for f in fields(Training)} | {"version", "status", "id"}
    unknown = sorted(where.keys() - of_reference - of_training)
    if unknown:
        allowed = ", ".join(sorted(of_reference | of_training))
        raise ValueError(f"got {', '.join(unknown)}, allowed: {allowed}")
    wanted = {k: v for k, v in where.items() if k in of_reference}
    matching = {
        reference.training
        for run in runs(store.root)
        for reference in run.references()
        if wanted.items() <= asdict(reference).items()
    }
    found = []
    for training_id in store.ids():
        if wanted and training_id not in matching:
            continue
        stored = store.get(training_id)
        if stored is not None:
            facts = {**stored.spec, "status": stored.status, "id": stored.id}
            if all(facts.get(k) == v for k, v in where.items() if k in of_training):
                found.append(stored)
    return found
