"""The report of a sweep, or of several runs: cells, small multiples, filters."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, evidence
from analysis.figure import Figure, Subject
from analysis.page import Page
from analysis.plot import accuracy
from analysis.render_png import save
from lth.store.run_folder import RunFolder


def write_sweep(folder: Path) -> Path:
    """The page of a sweep's folder (``<store>/sweep/<name>``), failed cells included."""
    store = folder.parent.parent
    cells = [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]
    return _write(folder.name, cells, store, folder / "report")


def write_runs(folders: Sequence[RunFolder]) -> Path:
    """The page of several runs, in the store's ``report/`` of the first."""
    cells = [
        {"overrides": [f"run={f.run_id}"], "run_id": f.run_id, "status": "done", "reason": None}
        for f in folders
    ]
    root = folders[0].store_root
    stores = {f.run_id: f.store_root for f in folders}
    return _write("runs", cells, root, root / "report", stores)


def _write(
    name: str,
    cells: Sequence[Mapping[str, Any]],
    store: Path,
    target: Path,
    stores: Mapping[str, Path] | None = None,
) -> Path:
    proofs: dict[str, Subject] = {}
    for cell in cells:
        run_id = cell["run_id"]
        if run_id and run_id not in proofs:
            folder = RunFolder((stores or {}).get(run_id, store), run_id)
            if any(folder.references()):
                proofs[run_id] = Subject(folder, evidence(folder))
    values = [_values(cell["overrides"]) for cell in cells]
    page = Page(f"Lottery tickets: sweep {name}")
    failed = [c["status"] != "done" for c in cells]
    page.add("p", f"{len(cells)} cells, {sum(failed)} of them failed.", kind="question")
    varied = {
        key: sorted({v[key] for v in values if key in v})
        for key in dict.fromkeys(k for v in values for k in v)
    }
    page.add_filters({k: v for k, v in varied.items() if len(v) > 1})
    table = pd.DataFrame([_row(cell, proofs.get(cell["run_id"] or "")) for cell in cells])
    texts = ["cell", "status", "verdict", "run"]
    page.add_table(table, text=texts, cells=values, failed=failed)
    target.mkdir(parents=True, exist_ok=True)
    figures = _multiples(cells, values, proofs)
    if figures:
        page.add_multiples(
            "Accuracy against density", figures, "One panel per cell; see the runs' own reports."
        )
    for figure, _ in figures:
        save(figure, target / f"{figure.name}.png")
        figure.data.to_csv(target / f"{figure.name}.csv", index=False)
    table.to_csv(target / "cells.csv", index=False)
    path = target / "report.html"
    path.write_text(page.html())
    return path


def _values(overrides: Sequence[str]) -> dict[str, str]:
    pairs = (o.lstrip("+~").partition("=") for o in overrides)
    return {key: value for key, _, value in pairs}


def _row(cell: Mapping[str, Any], subject: Subject | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cell": " ".join(cell["overrides"]) or "default",
        "status": cell["status"],
        "ticket − control, points": "–",
    }
    if subject is not None:
        row |= {"ticket − control, points": gap(subject.proof)}
        row |= {"verdict": subject.proof.verdict, "run": subject.folder.run_id}
    else:
        row |= {"verdict": cell.get("reason") or "–", "run": cell["run_id"] or "–"}
    return row


def gap(proof: Evidence) -> str:
    """Ticket minus the verdict's control over the verdict's densities, or a dash."""
    table = proof.difference
    low, high = proof.settings["verdict_density"]
    own = table[
        (table["against"] == proof.settings["verdict_against"])
        & table["density"].between(low, high)
    ]
    return "–" if own.empty else f"{100 * own['mean'].mean():+.2f}"


def _multiples(
    cells: Sequence[Mapping[str, Any]],
    values: Sequence[dict[str, str]],
    proofs: Mapping[str, Subject],
) -> list[tuple[Figure, dict[str, str]]]:
    figures: list[tuple[Figure, dict[str, str]]] = []
    for cell, own in zip(cells, values, strict=True):
        subject = proofs.get(cell["run_id"] or "")
        figure = accuracy.draw(subject) if subject is not None else None
        if figure is not None and subject is not None:
            title = " ".join(cell["overrides"]) or "default"
            figures.append((_titled(figure, title, f"accuracy_{len(figures):02d}"), own))
    return figures


def _titled(figure: Figure, title: str, name: str) -> Figure:
    panel = dataclasses.replace(figure.panels[0], title=title)
    return dataclasses.replace(figure, name=name, title=title, panels=[panel])
