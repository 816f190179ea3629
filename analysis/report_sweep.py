"""The report of a sweep, or of several runs: cells, small multiples, filters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, evidence
from analysis.figure import Figure, Subject
from analysis.page import Page
from analysis.plot import accuracy
from analysis.render_png import save
from analysis.words import describe
from lth.store.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell: what it set, how it ended, and its run where there is one."""

    settings: dict[str, str]
    status: str
    reason: str | None
    subject: Subject | None


def write_sweep(folder: Path) -> Path:
    """The page of a sweep's folder (``<store>/sweep/<name>``), failed cells included."""
    store = folder.resolve().parent.parent
    found: dict[str, Subject | None] = {}
    cells = []
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        run_id = record["run_id"]
        if run_id and run_id not in found:
            found[run_id] = _subject(RunFolder(store, run_id))
        pairs = (o.lstrip("+~").partition("=") for o in record["overrides"])
        cells.append(
            Cell(
                settings={key: value for key, _, value in pairs},
                status=record["status"],
                reason=record["reason"],
                subject=found.get(run_id or ""),
            )
        )
    return _write("sweep", cells, folder / "report")


def write_runs(folders: Sequence[RunFolder]) -> Path:
    """The page of several runs, in the ``report/`` of the first one's store."""
    cells = [
        Cell(settings=dict(describe(f.config())), status="done", reason=None, subject=_subject(f))
        for f in folders
    ]
    return _write(f"{len(cells)} runs", cells, folders[0].store_root / "report")


def _subject(folder: RunFolder) -> Subject | None:
    return Subject(folder, evidence(folder)) if any(folder.references()) else None


def _write(what: str, cells: Sequence[Cell], target: Path) -> Path:
    keys = list(dict.fromkeys(k for c in cells for k in c.settings))
    values = {k: list(dict.fromkeys(c.settings.get(k, "–") for c in cells)) for k in keys}
    varied = {k: sorted(v) for k, v in values.items() if len(v) > 1}
    shared = [(k, v[0]) for k, v in values.items() if len(v) == 1]
    page = Page(f"Lottery tickets: {what} over {', '.join(varied) or 'nothing'}")
    failed = [c.status != "done" for c in cells]
    page.add("p", f"{len(cells)} cells, {sum(failed)} of them failed.", kind="question")
    page.add_facts(shared)
    page.add_filters(varied)
    names = [{k: c.settings.get(k, "–") for k in varied} for c in cells]
    table = pd.DataFrame([_row(c, own) for c, own in zip(cells, names, strict=True)])
    texts = [*varied, "status", "verdict", "run"]
    page.add_table(table, text=texts, cells=names, failed=failed)
    target.mkdir(parents=True, exist_ok=True)
    figures = _multiples(cells, names)
    if figures:
        caption = "One panel per cell, all on one scale; the runs' own reports have the rest."
        page.add_multiples("Accuracy against density", figures, caption)
    for figure, _ in figures:
        save(figure, target / f"{figure.name}.png")
        figure.data.to_csv(target / f"{figure.name}.csv", index=False)
    table.to_csv(target / "cells.csv", index=False)
    path = target / "report.html"
    path.write_text(page.html())
    return path


def _row(cell: Cell, name: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {**name, "status": cell.status}
    if cell.subject is None:
        return row | {"ticket − control": "–", "verdict": cell.reason or "–", "run": "–"}
    proof = cell.subject.proof
    return row | {"ticket − control": gap(proof), "verdict": proof.verdict, "run": proof.run_id}


def gap(proof: Evidence) -> str:
    """Ticket minus the verdict's control over the verdict's densities in points, or a dash."""
    table = proof.difference
    low, high = proof.settings["verdict_density"]
    own = table[
        (table["against"] == proof.settings["verdict_against"])
        & table["density"].between(low, high)
    ]
    return "–" if own.empty else f"{100 * own['mean'].mean():+.2f}"


def _multiples(
    cells: Sequence[Cell], names: Sequence[dict[str, str]]
) -> list[tuple[Figure, dict[str, str]]]:
    drawn = [
        (figure, name)
        for cell, name in zip(cells, names, strict=True)
        if cell.subject is not None and (figure := accuracy.draw(cell.subject)) is not None
    ]
    means = [y for figure, _ in drawn for s in figure.panels[0].series for y in s.y]
    if not means:
        return []
    margin = max(0.5, 0.08 * (max(means) - min(means)))
    scale = (min(means) - margin, max(means) + margin)
    return [
        (_small(figure, " ".join(f"{k}={v}" for k, v in name.items()), index, scale), name)
        for index, (figure, name) in enumerate(drawn)
    ]


def _small(figure: Figure, title: str, index: int, scale: tuple[float, float]) -> Figure:
    panel = dataclasses.replace(figure.panels[0], title=title, range_y=scale, x="density")
    return dataclasses.replace(
        figure, name=f"accuracy_{index:02d}", title=title or figure.title, panels=[panel]
    )
