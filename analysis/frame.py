"""From stores to tidy tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lth.store.files import FileStore
from lth.store.run_folder import Reference, RunFolder, runs
from lth.store.stored import DamagedError, Stored

# fmt: off
COLUMNS = [
    "run_id", "experiment", "seed", "variant", "draw", "level", "parent_level", "density",
    "remaining_weights", "prunable_weights", "min_layer_density", "start_step", "end_step",
    "early_stop_step", "early_stop_censored", "early_stop_val_loss", "early_stop_val_accuracy",
    "early_stop_test_accuracy", "final_train_loss", "final_train_accuracy", "final_val_loss",
    "final_val_accuracy", "final_test_loss", "final_test_accuracy", "search_steps",
    "train_seconds", "engine", "device", "precision", "status",
]
# fmt: on
"""One row per (run_id, seed, variant, draw, level): these names are a contract."""


EXTRA = ["num_classes", "numerics", "training"]
"""What statistics need besides: accuracy at chance, pairs that differ, and the Training's id."""


class LocateError(ValueError):
    """An argument names no run, or more than one."""


def locate(names: Sequence[str], store: str | Path = "results") -> list[RunFolder]:
    """Runs by folder, by unique run_id prefix in ``store``, or all of a store; each once."""
    found: list[RunFolder] = []
    for name in names:
        path = Path(name)
        if (path / "run.json").is_file():
            path = path.resolve()
            found.append(RunFolder(path.parent.parent, path.name))
        elif (path / "run").is_dir():
            found += runs(path)
        else:
            hits = [r for r in runs(store) if r.run_id.startswith(name)]
            if len(hits) != 1:
                known = ", ".join(r.run_id for r in (hits or runs(store))) or "none"
                raise LocateError(
                    f"RUN: got {name!r}, which {'many' if hits else 'no'} runs match, allowed: a "
                    f"run's folder, a store, or a unique run_id prefix in {store} ({known})"
                )
            found += hits
    return list({(f.store_root.resolve(), f.run_id): f for f in found}.values())


def trained(names: Sequence[str], store: str | Path = "results") -> list[RunFolder]:
    """Those of ``locate`` that hold finished trainings; LocateError where none does."""
    found = [f for f in locate(names, store) if any(f.references())]
    if not found:
        raise LocateError("RUN: no stored trainings yet, allowed: runs with finished trainings")
    return found


def frame(folders: Iterable[RunFolder]) -> pd.DataFrame:
    """The tidy table of runs: ``COLUMNS``, and ``EXTRA`` columns for the statistics.

    DamagedError names a file that is missing or not what was stored.
    """
    rows = [
        _row(folder, reference, _stored(folder, reference))
        for folder in folders
        for reference in folder.references()
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *EXTRA])
    return table.sort_values(["run_id", "level", "variant", "seed", "draw"], ignore_index=True)


def _stored(folder: RunFolder, reference: Reference) -> Stored:
    store = FileStore(folder.store_root)
    stored = store.peek(reference.training)
    if stored is None:
        raise DamagedError(store.folder(reference.training).describe("done.json"), "missing")
    return stored


def _row(folder: RunFolder, reference: Reference, stored: Stored) -> dict[str, Any]:
    done = stored.done
    layers = done["layers"].values()
    early: dict[str, Any] = done["early_stop"] or {}
    info = folder.info() or {"invocations": [{}]}
    return {
        "run_id": reference.run_id,
        "experiment": info["invocations"][0].get("experiment"),
        "seed": reference.seed,
        "variant": reference.variant,
        "draw": reference.draw,
        "level": reference.level,
        "parent_level": reference.parent_level,
        "density": done["density"],
        "remaining_weights": sum(layer["kept"] for layer in layers),
        "prunable_weights": sum(layer["all"] for layer in layers),
        "min_layer_density": min(layer["kept"] / layer["all"] for layer in layers),
        "start_step": done["first_step"],
        "end_step": done["first_step"] + done["updates"],
        "early_stop_step": early.get("step"),
        "early_stop_censored": early.get("censored"),
        **{f"early_stop_{m}": early.get(m) for m in ("val_loss", "val_accuracy", "test_accuracy")},
        **{
            f"final_{split}_{m}": done["final"].get(f"{split}_{m}")
            for split in ("train", "val", "test")
            for m in ("loss", "accuracy")
        },
        "search_steps": reference.search_steps,
        "train_seconds": done["seconds"],
        "engine": done["numerics"]["engine"],
        "device": done["numerics"]["device"],
        "precision": done["numerics"]["precision"],
        "status": done["status"],
        "num_classes": done["num_classes"],
        "numerics": json.dumps(done["numerics"], sort_keys=True),
        "training": reference.training,
    }
