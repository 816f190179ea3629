"""Parallel sweeps: shared trainings once, killed and begun again, faulty cells alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lth.store.files import FileStore
from lth.store.run_folder import runs

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "dataset=synthetic",
    "train_steps=300it",
    "eval_every=50it",
    "seeds=[0],[1]",
    "device=cpu",
    "sink=[console]",
    "report=false",
]
GRID = ["levels=2", "rewind_step=0it,30it,60it"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


def start(root: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lth.run", "-m", *SETTINGS, *more, f"store.root={root.name}"],
        cwd=root.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def contents(root: Path) -> dict[str, Any]:
    """Everything that a store and its sweeps say, but for times and overrides of the store."""
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


def seconds(path: Path) -> float:
    """The wall time that ``done.json`` notes of the training that made it."""
    return float(json.loads(path.read_text())["seconds"])


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in sorted(root.glob("sweep/*/*.json"))]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("quiet") / "results"
    process = start(root, *GRID)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return root


def test_a_grid_trains_what_cells_share_once(quiet: Path) -> None:
    # Per seed: one dense network, and three rewind steps of 2 levels x 3 variants. At level 1
    # random_reinit is one and the same: a mask of the dense end, a fresh start, all T updates.
    assert len(FileStore(quiet).ids()) == 2 * (1 + 3 * 2 * 3 - 2)
    cells = records(quiet)
    assert len(cells) == 6 and all(c["status"] == "done" for c in cells)
    assert len({c["run_id"] for c in cells}) == 3


def test_a_parallel_sweep_killed_and_begun_again_is_the_quiet_one(
    quiet: Path, tmp_path: Path
) -> None:
    root = tmp_path / "results"
    process = start(root, *GRID, *JOBLIB)
    end = time.monotonic() + 120
    while len(list(root.glob("training/*/*/done.json"))) < 5 and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before = {p: seconds(p) for p in root.glob("training/*/*/done.json")}
    assert 5 <= len(before) < 34
    again = start(root, *GRID, *JOBLIB)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert contents(root) == contents(quiet)
    # What was finished was not trained again (a state for another k may have been added).
    assert all(seconds(p) == s for p, s in before.items())
    assert len(records(root)) == 6


def test_faulty_cells_fail_alone_in_parallel_too(tmp_path: Path) -> None:
    root = tmp_path / "results"
    process = start(root, *JOBLIB, "rewind_step=0it,9000it", "levels=1")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "rewind_step: got" in errors and "Traceback" not in errors
    found = {(c["status"], c["run_id"] is None) for c in records(root)}
    assert found == {("done", False), ("failed", True)}
    (reason,) = {c["reason"] for c in records(root) if c["status"] == "failed"}
    assert "rewind_step: got 9000it, allowed:" in reason
