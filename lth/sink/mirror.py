"""What W&B is told of a stored run, as messages of ``lth.sink.uplink``; read from the store alone.

One place for the run under way and for ``analysis.sync``. Numbers are those of ``done.json`` and
``metrics.parquet``: fractions, updates, seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from lth.config import RunConfig
from lth.spec import content_id
from lth.store.files import FileStore
from lth.store.run_folder import Reference, RunFolder
from lth.store.stored import DamagedError, Stored

ARTIFACTS: Mapping[str, tuple[str, ...]] = {
    "all": ("training.json", "mask.safetensors", "mask_start.safetensors", "start.safetensors",
            "end.safetensors"),
    "masks": ("training.json", "mask.safetensors", "mask_start.safetensors"),
    "none": (),
}  # fmt: skip
"""Which files of a ticket are uploaded."""

TICKET = "ticket"
Message = dict[str, Any]


class Mirror:
    """One run, seen as W&B shows it."""

    def __init__(self, folder: RunFolder, artifacts: str) -> None:
        self.folder = folder
        self._store = FileStore(folder.store_root)
        self._artifacts = artifacts
        self._config = folder.config()

    def setting(self, name: str) -> Any:
        """A setting of the verdict: the run's own, or the default."""
        return self._config.get(name, getattr(RunConfig(), name))

    def names(self) -> dict[str, str]:
        """What runs are filtered and grouped by."""
        groups = {"model": "model", "data": "dataset", "method": "criterion"}
        return {name: str(self._config[group]["name"]) for name, group in groups.items()}

    def tags(self, experiment: str | None, sweep: str | None) -> list[str]:
        """Experiment, sweep, model, data and method; W&B takes at most 64 characters of each."""
        return [t[:64] for t in (experiment, sweep, *self.names().values()) if t]

    def levels(self, seeds: Sequence[int]) -> dict[tuple[int, int], list[Reference]]:
        """What the store holds of some seeds, by (seed, level), in order."""
        found: dict[tuple[int, int], list[Reference]] = {}
        for reference in self.folder.references():
            if reference.seed in seeds:
                found.setdefault((reference.seed, reference.level), []).append(reference)
        return dict(sorted(found.items()))

    def digest(self, references: Sequence[Reference]) -> str:
        """Changes where anything that would be mirrored of these changes."""
        told = [
            [*place(r), r.training, self._stored(r).done["files"]["metrics.parquet"]]
            for r in references
        ]
        return content_id([self._artifacts, *sorted(told)])

    def level(
        self, run: str, references: Sequence[Reference], new: Set[tuple[str, int, int]]
    ) -> Iterator[Message]:
        """What is new of one seed's level: axes, learning curves, results, the ticket.

        ``references`` are all that is known of the level, for the means and the gap.
        """
        stored = [(r, self._stored(r)) for r in sorted(references, key=_order)]
        added = [pair for pair in stored if place(pair[0]) in new]
        for reference, _ in added:
            path = _curve(reference)
            yield _axis(run, f"{path}/step", None)
            yield _axis(run, f"{path}/*", f"{path}/step")
        yield {"do": "log", "run": run, "rows": list(_curves(added))}
        changed = {reference.variant for reference, _ in added}
        results = self._results(stored, changed)
        for variant in results:
            yield _axis(run, f"level/{variant}/*", "density")
        yield {"do": "log", "run": run, "rows": [_flat(v, row) for v, row in results.items()]}
        for reference, found in added:
            if reference.variant == TICKET and self._artifacts != "none":
                yield self._ticket(run, reference, found)

    def _stored(self, reference: Reference) -> Stored:
        stored = self._store.peek(reference.training)
        if stored is None:
            raise DamagedError(
                self._store.folder(reference.training).describe("done.json"), "missing"
            )
        return stored

    def _results(
        self, stored: Sequence[tuple[Reference, Stored]], changed: Set[str]
    ) -> dict[str, dict[str, float]]:
        """One row per variant, draws averaged; and what the ticket gains over the control."""
        draws: dict[str, list[dict[str, float]]] = {}
        for reference, found in stored:
            row = _result(reference, found, self.setting("endpoint"))
            draws.setdefault(reference.variant, []).append(row)
        means = {variant: _mean(rows) for variant, rows in draws.items()}
        rows = {variant: row for variant, row in means.items() if variant in changed}
        against = self.setting("verdict_against")
        if {TICKET, against} <= means.keys() and {TICKET, against} & changed:
            ticket, control = means[TICKET], means[against]
            if "test_accuracy" in ticket and "test_accuracy" in control:
                rows[f"{TICKET}_minus_{against}"] = {
                    "density": ticket["density"],
                    "level": ticket["level"],
                    "test_accuracy": ticket["test_accuracy"] - control["test_accuracy"],
                }
        return rows

    def _ticket(self, run: str, reference: Reference, stored: Stored) -> Message:
        names = [n for n in ARTIFACTS[self._artifacts] if n in stored.done["files"]]
        folder = self._store.folder(reference.training).path.resolve()
        parent = None
        if reference.parent_level is not None:
            parent = artifact_name(reference.run_id, reference.seed, reference.parent_level)
        return {
            "do": "artifact",
            "run": run,
            "name": artifact_name(reference.run_id, reference.seed, reference.level),
            "type": TICKET,
            "metadata": {
                "run_id": reference.run_id,
                "seed": reference.seed,
                "level": reference.level,
                "density": stored.done["density"],
                "training": reference.training,
                "parent": parent,
                "digests": stored.done["digests"],
                "sha256": {n: stored.done["files"][n] for n in names},
                "status": stored.status,
            },
            "files": {n: str(folder / n) for n in names},
        }


def place(reference: Reference) -> tuple[str, int, int]:
    """A Training's name within its seed."""
    return (reference.variant, reference.draw, reference.level)


def artifact_name(run_id: str, seed: int, level: int) -> str:
    """The same in every life, so that W&B sees an unchanged ticket as the same version."""
    return f"ticket-{run_id}-s{seed}-level_{level:02d}"


def summary(run: str, findings: Mapping[str, Any]) -> Iterator[Message]:
    """The across-seed tables, the numbers, the verdict and the figures of a run."""
    yield _axis(run, "across_seeds/*", "density")
    yield {"do": "log", "run": run, "rows": findings["curves"]}
    for name, (columns, rows) in findings["tables"].items():
        yield {"do": "table", "run": run, "name": f"tables/{name}", **_cells(columns, rows)}
    for name, path in findings["figures"].items():
        yield {"do": "image", "run": run, "name": f"report/{name}", "path": str(path)}
    yield {"do": "summary", "run": run, "values": findings["numbers"]}


def _cells(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    return {"columns": list(columns), "rows": [list(row) for row in rows]}


def summary_digest(findings: Mapping[str, Any]) -> str:
    """Changes where anything that a summary shows changes."""
    figures = {n: Path(p).read_bytes().hex() for n, p in findings["figures"].items()}
    return content_id(_plain({**findings, "figures": figures}))


def _order(reference: Reference) -> tuple[bool, str, int]:
    return (reference.variant != TICKET, reference.variant, reference.draw)


def _axis(run: str, name: str, against: str | None) -> Message:
    return {"do": "axis", "run": run, "name": name, "against": against}


def _curve(reference: Reference) -> str:
    draw = f"_draw_{reference.draw}" if reference.draw else ""
    return f"train/{reference.variant}{draw}/level_{reference.level:02d}"


def _curves(stored: Sequence[tuple[Reference, Stored]]) -> Iterator[dict[str, float]]:
    """The rows of all curves of a level side by side: W&B's cost is by row, not by key."""
    tables = {_curve(r): found.metrics() for r, found in stored}
    for i in range(max((len(rows) for rows in tables.values()), default=0)):
        yield {
            f"{path}/{key}": value
            for path, rows in tables.items()
            if i < len(rows)
            for key, value in rows[i].items()
            if value is not None and not math.isnan(value)
        }


def _result(reference: Reference, stored: Stored, endpoint: str) -> dict[str, float]:
    done = stored.done
    early: dict[str, Any] = done["early_stop"] or {}
    row: dict[str, Any] = {
        "density": done["density"],
        "level": reference.level,
        "remaining_weights": sum(layer["kept"] for layer in done["layers"].values()),
        "search_steps": reference.search_steps,
        "train_seconds": done["seconds"],
        "diverged": int(stored.status == "diverged"),
        **{f"early_stop_{k}": v for k, v in early.items()},
        **{f"final_{k}": v for k, v in done["final"].items()},
        **{
            f"layer_density/{name.removesuffix('.weight').replace('.', '_')}": c["kept"] / c["all"]
            for name, c in done["layers"].items()
        },
    }
    # As in every table: at the run's endpoint, a diverged training at chance.
    row["test_accuracy"] = row.get(f"{endpoint}_test_accuracy")
    if row["diverged"]:
        row["test_accuracy"] = 1 / done["num_classes"]
    return {k: float(v) for k, v in row.items() if v is not None}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Over draws; a value that a draw lacks is averaged over the others."""
    keys = dict.fromkeys(k for row in rows for k in row)
    values = {k: [row[k] for row in rows if k in row] for k in keys}
    return {k: sum(v) / len(v) for k, v in values.items()}


def _flat(variant: str, row: Mapping[str, float]) -> dict[str, float]:
    axes = {k: row[k] for k in ("density", "level")}
    return {**axes, **{f"level/{variant}/{k}": v for k, v in row.items() if k not in axes}}


def _plain(value: Any) -> Any:
    """Floats as text, NaN too: only for a digest."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return repr(value)
