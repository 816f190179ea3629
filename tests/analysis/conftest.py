"""A small run and a small sweep on disk, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lth.store.run_folder import RunFolder, runs

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["levels=2", "train_steps=60it", "eval_every=20it", "device=cpu", "sink=[console]"]


def command(root: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lth.run", *SMALL, f"store.root={root}", *settings],
        cwd=root.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def make_run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command on a store with further settings."""
    return command


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Digits, three seeds, two levels, 60 updates; with the report that the run wrote."""
    root = tmp_path_factory.mktemp("small") / "results"
    done = command(root, "seeds=[0,1,2]")
    assert done.returncode == 0, done.stderr
    (folder,) = runs(root)
    return folder


@pytest.fixture
def two_runs(small_run: RunFolder, tmp_path: Path) -> list[RunFolder]:
    """A copy of the small run, and in the same store a run at another learning rate."""
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    done = command(root, "seeds=[0]", "optimizer.lr=0.2", "report=false")
    assert done.returncode == 0, done.stderr
    first = RunFolder(root, small_run.run_id)
    (other,) = (folder for folder in runs(root) if folder.run_id != first.run_id)
    return [first, other]
