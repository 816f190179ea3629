"""The report of a sweep, or of several runs: cells, small multiples, filters."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import whole, words
from analysis.evidence import evidence
from analysis.figure import Figure, Subject, percent
from analysis.page import Page
from analysis.plot import accuracy
from analysis.render_png import save
from analysis.report_run import commands
from analysis.verdict import gap
from analysis.whole import write_csv
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError

NOT_VARIED = {"store.root", "sink", "report"}
"""Overrides that change no result."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One row of the page: what was set, how it ended, and its run where there is one."""

    values: Mapping[str, str]
    status: str
    reason: str
    run_id: str
    subject: Subject | None


def is_sweep(folder: Path) -> bool:
    """Whether a folder is ``<store>/sweep/<name>`` with cells in it."""
    return folder.resolve().parent.name == "sweep" and any(folder.glob("*.json"))


def write_sweep(folder: Path, *, pdf: bool = False) -> Path:
    """The page of a sweep's folder (``<store>/sweep/<name>``), failed cells included."""
    folder = folder.resolve()
    store = folder.parent.parent
    cells = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        run = RunFolder(store, record["run_id"]) if record["run_id"] else None
        cells.append(
            _cell(_overrides(record["overrides"]), record["status"], record["reason"] or "", run)
        )
    return _write(f"sweep {folder.name}", cells, folder / "report", pdf=pdf)


def write_runs(folders: Sequence[RunFolder], *, pdf: bool = False) -> Path:
    """The page of several runs, in the ``report/`` of the first one's store."""
    cells = [_cell(_flat(f.config()), "done", "", f) for f in folders]
    root = folders[0].store_root
    return _write(f"{len(cells)} runs of {root.name}", cells, root / "report", pdf=pdf)


def _cell(values: Mapping[str, str], status: str, reason: str, run: RunFolder | None) -> Cell:
    """A cell; one whose files are damaged is shown as failed, the others stay."""
    subject = None
    try:
        if run is not None and any(run.references()):
            subject = Subject(run, evidence(run))
    except DamagedError as damage:
        status, reason = "failed", f"damaged: {damage}"
    run_id = run.run_id if run is not None else ""
    return Cell(values=values, status=status, reason=reason, run_id=run_id, subject=subject)


def _overrides(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (o.lstrip("+~").partition("=") for o in overrides)
    return {key: value for key, _, value in pairs if key not in NOT_VARIED}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """``{"optimizer": {"lr": 0.1}}`` is ``{"optimizer.lr": "0.1"}``."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value)
    return {k.removesuffix(".name"): v for k, v in found.items()}


def varied(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The keys whose values differ between cells, and these values; ``-`` where there is none."""
    keys = dict.fromkeys(k for cell in cells for k in cell.values)
    found = {key: list(dict.fromkeys(c.values.get(key, "-") for c in cells)) for key in keys}
    return {key: sorted(values, key=_order) for key, values in found.items() if len(values) > 1}


def _order(value: str) -> tuple[float, str]:
    """Numbers by size (``50it`` is 50), then the rest by name."""
    try:
        return float(value.removesuffix("it").removesuffix("ep")), value
    except ValueError:
        return math.inf, value


def _write(name: str, cells: Sequence[Cell], target: Path, *, pdf: bool) -> Path:
    differ = varied(cells)
    cells = sorted(cells, key=lambda c: [_order(c.values.get(k, "-")) for k in differ])
    own = [{k: c.values.get(k, "-") for k in differ} for c in cells]
    page = _head(name, cells, differ)
    page.add_filters(differ, len(cells))
    table = pd.DataFrame([{**v, **_row(c)} for c, v in zip(cells, own, strict=True)])
    if (table["matches dense to"] == "–").all():
        table = table.drop(columns="matches dense to")
    failed = [c.status != "done" for c in cells]
    texts = [*differ, "status", "run", "outcome"]
    page.add_table(
        table, text=texts, long=["outcome"], wide=["gap", "run"], cells=own, failed=failed
    )
    page.add(
        "p",
        "The gap is the ticket minus the verdict's control, in points of test accuracy over the "
        "verdict's densities, with its 95 % interval over n seeds. Dense: its test accuracy in %. "
        "A run's own report: python -m analysis.report RUN.",
        kind="soft",
    )
    target.mkdir(parents=True, exist_ok=True)
    drawn = [(v, c) for v, c in _by_run(own, cells) if _accuracy(c) is not None]
    if drawn:
        figure = _multiples([(_label(v, c), c) for v, c in drawn])
        page.add_figure(figure, cells=[v for v, _ in drawn])
        save(figure, target / f"{figure.name}.png", pdf=pdf)
        write_csv(target / f"{figure.name}.csv", figure.data)
    write_csv(target / "cells.csv", table)
    infos = [c.subject.folder.info() for c in cells if c.subject is not None]
    made = commands([i for i in infos if i is not None])
    if made:
        page.add_heading("provenance", "Provenance")
        page.add("p", f"The command{'s' * (len(made) > 1)} that trained these cells:")
        page.add("pre", "\n".join(made))
    path = target / "report.html"
    whole.write(path, page.html())
    return path


def _by_run(
    own: Sequence[Mapping[str, str]], cells: Sequence[Cell]
) -> list[tuple[dict[str, str], Cell]]:
    """One cell for each run, with the values that all cells of that run share.

    ``seeds=[0],[1]`` makes two cells and one run: its panel shows both seeds, and is neither's.
    """
    found: dict[str, tuple[dict[str, str], Cell]] = {}
    for values, cell in zip(own, cells, strict=True):
        shared, first = found.get(cell.run_id, (values, cell))
        found[cell.run_id] = (dict(shared.items() & values.items()), first)
    order = list(own[0]) if own else []
    return [({k: v[k] for k in order if k in v}, cell) for v, cell in found.values()]


def _head(name: str, cells: Sequence[Cell], differ: Mapping[str, Sequence[str]]) -> Page:
    subjects = [c.subject for c in cells if c.subject is not None]
    titles = list(dict.fromkeys(words.title(s.folder.config()) for s in subjects))
    failed = sum(c.status != "done" for c in cells)
    title = titles[0] if len(titles) == 1 else "Lottery tickets"
    page = Page(title, kind="Lottery ticket sweep", meta=[name])
    over = " and ".join(", ".join(differ).rsplit(", ", 1)) or "nothing"
    failures = f"{failed} of them failed" if failed else "none of them failed"
    page.add("p", f"{len(cells)} cells that differ in {over}; {failures}.", kind="question")
    common = {
        key: cells[0].values[key] for key in (cells[0].values if cells else ()) if key not in differ
    }
    if common:
        page.add_facts(list(common.items()), summary="The same in all cells")
    return page


def _label(values: Mapping[str, str], cell: Cell) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) or cell.run_id


def _row(cell: Cell) -> dict[str, Any]:
    row = {"status": cell.status, "gap": "–", "n": "–", "dense": "–", "matches dense to": "–"}
    row |= {"run": cell.run_id or "–"}
    if cell.subject is None:
        return {**row, "outcome": cell.reason or "nothing is stored"}
    proof = cell.subject.proof
    found = gap(proof.trainings, proof.settings)
    outcome = "no level in the verdict's densities"
    if found is not None and found.result.n:
        result = found.result
        row |= {"gap": f"{100 * result.mean:+.2f}", "n": str(result.n)}
        if result.n > 1:
            row["gap"] += f" [{100 * result.low:+.2f}, {100 * result.high:+.2f}]"
        outcome = found.winner(str(proof.settings["verdict_against"]))
    dense = proof.accuracy[(proof.accuracy["variant"] == "ticket") & (proof.accuracy["level"] == 0)]
    if not dense.empty:
        row["dense"] = f"{100 * float(dense['mean'].iloc[0]):.2f}"
    certain = proof.matching_range["sparsest_certain"]
    if len(certain) and not pd.isna(certain.iloc[0]):
        row["matches dense to"] = percent(float(certain.iloc[0]))
    row = {k: v.replace("-", "−") if k == "gap" else v for k, v in row.items()}
    if cell.status != "done":
        outcome = f"{cell.reason} (stored so far: {outcome})"
    return {**row, "outcome": outcome}


def _accuracy(cell: Cell) -> Figure | None:
    return accuracy.draw(cell.subject) if cell.subject is not None else None


def _multiples(cells: Sequence[tuple[str, Cell]]) -> Figure:
    """Accuracy against density, one small panel per run, all on one scale."""
    panels, tables = [], []
    for label, cell in cells:
        figure = _accuracy(cell)
        assert figure is not None
        panels.append(replace(figure.panels[0], title=label, x="density"))
        tables.append(figure.data.assign(cell=label, run_id=cell.run_id))
    data = pd.concat(tables, ignore_index=True)
    return Figure(
        name="accuracy",
        title=accuracy.TITLE,
        caption="One panel per run, all on one scale. Lines are means over seeds, bands their "
        "95 % t intervals; the dashed line is the dense network.",
        panels=[replace(p, range_y=accuracy.scale(data)) for p in panels],
        data=data,
        columns=3,
    )
