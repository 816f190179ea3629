"""Killed at any moment, shared, and started again: the store is that of one quiet run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from lth.store.files import FileStore
from lth.store.run_folder import runs

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "dataset=synthetic",
    "dataset.train=2000",
    "dataset.validation=400",
    "seeds=[0,1]",
    "levels=3",
    "rewind_step=40it",
    "train_steps=400it",
    "eval_every=30it",
    "batch_size=50",
    "keep=[100it,early_stop]",
    "event=[gradient_norm]",
    "optimizer.weight_decay=0.0001",
    "checkpoint_every=7it",
    "report=false",
]


def start(root: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "lth.run", *SETTINGS, f"store.root={root}"],
        cwd=root.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(root: Path) -> None:
    process = start(root)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def contents(root: Path) -> dict[str, Any]:
    """Everything that a store says, but for times."""
    store = FileStore(root)
    found: dict[str, Any] = {}
    for training_id in store.ids():
        stored = store.get(training_id)
        assert stored is not None
        lasting = {k: v for k, v in stored.done.items() if k not in ("seconds", "seal")}
        found[training_id] = (lasting, repr(stored.metrics()))
    for run in runs(root):
        for reference in run.references():
            place = (reference.seed, reference.variant, reference.level, reference.draw)
            found[f"{run.run_id} {place}"] = reference
    return found


def test_killed_at_random_moments_it_ends_as_an_uninterrupted_run(tmp_path: Path) -> None:
    finish(tmp_path / "quiet")
    wanted = contents(tmp_path / "quiet")
    assert len(wanted) == 2 * (1 + 3 * 3) * 2

    moments = random.Random(0)
    killed = 0
    for _ in range(6):
        process = start(tmp_path / "killed")
        # Start-up takes two seconds or so; then it is somewhere in its trainings.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and not list((tmp_path / "killed").glob("training/*/*")):
            time.sleep(0.05)
        time.sleep(moments.uniform(0.0, 1.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed > 0
    finish(tmp_path / "killed")
    assert contents(tmp_path / "killed") == wanted
    leftovers = [p.name for p in (tmp_path / "killed").rglob("checkpoint*") if p.is_file()]
    assert leftovers == []


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    pair = [start(root), start(root)]
    for process in pair:
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
    finish(tmp_path / "alone")
    assert contents(root) == contents(tmp_path / "alone")


def test_a_deleted_training_is_recomputed_alone_bit_for_bit(tmp_path: Path) -> None:
    root = tmp_path / "store"
    finish(root)
    wanted = contents(root)
    times = {p: p.stat().st_mtime_ns for p in root.glob("training/*/*/done.json")}
    victim = next(iter(times)).parent
    for path in victim.iterdir():
        path.unlink()
    finish(root)
    assert contents(root) == wanted
    changed = [p for p, t in times.items() if p.stat().st_mtime_ns != t]
    assert [p.parent for p in changed] == [victim]
