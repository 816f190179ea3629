"""``<store>/run/<run_id>/``: the configuration, the invocations, and a reference per Training."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from lth.paths import conf_dir
from lth.store.files import FileStore, locked, write_atomically
from lth.store.stored import DamagedError, Stored
from lth.training import STORE_VERSION
from lth.types import Ticket


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

    @property
    def report(self) -> Path:
        """Where tables and figures go."""
        return self.path / "report"

    def info(self) -> dict[str, Any] | None:
        """``run.json``, or None where the run has not begun; DamagedError where it is no JSON."""
        path = self.path / "run.json"
        try:
            info: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise DamagedError(str(path), "is not JSON") from None
        return info

    def config(self) -> dict[str, Any]:
        """The semantic configuration, exactly what the run_id hashes."""
        data: dict[str, Any] = yaml.safe_load((self.path / "config.yaml").read_text())
        return data

    def begin(
        self, semantic: Mapping[str, Any], data_digest: str, invocation: Mapping[str, Any]
    ) -> None:
        """Note one more invocation. ValueError where the run was begun on other data."""
        with locked(self.store_root / "run" / f".{self.run_id}.lock", wait=True):
            info = self.info() or {
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
            text = yaml.safe_dump(dict(semantic), sort_keys=True)
            write_atomically(self.path / "config.yaml", text.encode())
            info["invocations"].append(dict(invocation))
            write_atomically(
                self.path / "run.json", json.dumps(info, indent=1, sort_keys=True).encode()
            )

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
        old = read_reference(path) if path.exists() else None
        if old == reference and link.is_symlink():
            return None
        if old is not None and old.options != reference.options:
            raise ValueError(
                f"baseline.{reference.variant}: this run already has a control of that name with "
                f"the options {old.options}; give this one another name"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(reference), indent=1, sort_keys=True).encode())
        target = FileStore(self.store_root).folder(reference.training).path
        temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, link.parent))
        os.replace(temporary, link)
        return None if old == reference else old

    def references(self) -> Iterator[Reference]:
        """All references of the run, by seed, variant, level and draw."""
        for path in sorted(self.path.glob("seed_*/*/level_*.json")):
            yield read_reference(path)


def read_reference(path: Path) -> Reference:
    """A reference file; DamagedError where it is not one."""
    try:
        return Reference(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
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


def load_ticket(path: str | Path) -> Ticket:
    """The ticket (mask and masked start) of a stored Training.

    ``path``: a Training's folder, a link to it, or a reference's JSON file.
    Every file read is checked; DamagedError names one that is damaged,
    FileNotFoundError a path that holds no Training.
    """
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        path = path.with_suffix("")
    folder = path.resolve()
    stored = FileStore(folder.parent.parent.parent).get(folder.name)
    if stored is None:
        raise FileNotFoundError(f"{path}: no stored Training")
    return stored.ticket()


def find_trainings(store: FileStore | str | Path, **where: Any) -> list[Stored]:
    """The stored Trainings that some reference or their own spec matches.

    Keys: the fields of ``Reference`` (``run_id``, ``seed``, ``variant``, ``draw``,
    ``level``, ...), ``status``, ``id``, or top-level keys of the spec
    (``first_step``, ``precision``, ...). ValueError for any other key.
    """
    store = store if isinstance(store, FileStore) else FileStore(store)
    fields = set(Reference.__dataclass_fields__)
    by_training: dict[str, list[Reference]] = {}
    for run in runs(store.root):
        for reference in run.references():
            by_training.setdefault(reference.training, []).append(reference)
    of_reference = {k: v for k, v in where.items() if k in fields}
    of_training = {k: v for k, v in where.items() if k not in fields}
    found = []
    for training_id in store.ids():
        references = by_training.get(training_id, [])
        if of_reference and not any(
            all(getattr(r, k) == v for k, v in of_reference.items()) for r in references
        ):
            continue
        stored = store.get(training_id)
        if stored is None:
            continue
        facts = {**stored.spec, "status": stored.status, "id": stored.id}
        unknown = sorted(of_training.keys() - facts.keys())
        if unknown:
            raise ValueError(
                f"got {', '.join(unknown)}, allowed: {', '.join(sorted(fields | facts.keys()))}"
            )
        if all(facts[k] == v for k, v in of_training.items()):
            found.append(stored)
    return found
