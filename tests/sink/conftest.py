"""Small mirrored runs, and the reader of what W&B wrote of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lth.build import build
from lth.conduct import conduct
from lth.paths import conf_dir
from lth.run import register
from lth.store.run_folder import RunFolder

SETTINGS = [
    "dataset=synthetic",
    "dataset.validation=64",
    "levels=2",
    "train_steps=20it",
    "eval_every=10it",
    "batch_size=32",
    "verdict_density=[0.2,0.7]",
    "device=cpu",
]


@dataclass(frozen=True)
class Log:
    """An offline run of W&B, read by W&B's own reader."""

    path: Path

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(self.path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [record[kind] for record in self.records if record["type"] == kind]

    @property
    def run(self) -> dict[str, Any]:
        (found,) = self.of("run")
        return found

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.run["config"]["update"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """History without W&B's own columns."""
        items = [history["item"] for history in self.of("history")]
        return [{k: v for k, v in item.items() if k[0] != "_"} for item in items]

    @property
    def axes(self) -> dict[str, str | None]:
        """What every metric, or glob of metrics, is drawn against."""
        named = ((m.get("glob_name") or m["name"], m.get("step_metric")) for m in self.of("metric"))
        return dict(named)

    @property
    def artifacts(self) -> dict[str, dict[str, Any]]:
        tickets = [a for a in self.of("artifact") if a["type"] == "ticket"]
        return {a["name"]: a for a in tickets}

    def summary(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for update in self.of("summary"):
            found |= update.get("update", {})
        return found

    def series(self, *keys: str) -> list[tuple[Any, ...]]:
        """The rows that have all of the keys."""
        return [tuple(r[k] for k in keys) for r in self.rows if set(keys) <= r.keys()]


def _logs(root: Path) -> dict[str, Log]:
    """By the id's end: ``s0-0`` is seed 0 in the first life."""
    found = [Log(p) for p in sorted(root.glob("wandb/offline-run-*"))]
    return {"-".join(log.path.name.rsplit("-", 2)[1:]): log for log in found}


def _run(root: Path, *overrides: str, experiment: str | None = None) -> RunFolder:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        config = compose("run", overrides=[*SETTINGS, f"store.root={root}", *overrides])
    run = build(config)
    conduct(run, experiment, report=False, sweep="a_sweep")
    return RunFolder(root, run.run_id)


@pytest.fixture(scope="session")
def logs() -> Callable[[Path], dict[str, Log]]:
    """``logs(store)``: every offline run of W&B."""
    return _logs


@pytest.fixture(scope="session")
def lth_run() -> Callable[..., RunFolder]:
    """``lth_run(store, *overrides, experiment=None)``: a run in this process."""
    return _run


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    """Two seeds, two levels, two draws of the reinit, mirrored while they were trained."""
    root = tmp_path_factory.mktemp("mirrored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        yield _run(
            root,
            "sink.wandb.mode=offline",
            "seeds=[0,1]",
            "baseline.random_reinit.draws=2",
            experiment="a_claim",
        )
        assert list(Path().iterdir()) == [], "nothing of W&B in the user's folder"
