"""What a finished run found, as plain values: what a mirror of it shows beside its trainings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, evidence
from lth.store.run_folder import RunFolder

Table = tuple[list[str], list[list[Any]]]

TABLES = ("accuracy", "difference", "early_stop", "matching", "matching_range", "cost")
"""The tables of the evidence that are shown whole."""

BOUNDS = ("mean", "low", "high", "band_low", "band_high", "n")


def findings(folder: RunFolder, proof: Evidence | None = None) -> dict[str, Any]:
    """``tables`` (name: columns, rows), ``curves`` (rows by density), ``numbers``, ``figures``.

    ``proof`` is the run's evidence where that is known already.
    """
    return {**of_evidence(proof or evidence(folder)), "figures": figures(folder.report)}


def of_evidence(found: Evidence) -> dict[str, Any]:
    """Numbers are fractions; what a run does not know is None, in a curve left out."""
    return {
        "tables": {name: _table(getattr(found, name)) for name in TABLES},
        "curves": [
            *_curves(found.accuracy, "variant", ""),
            *_curves(found.difference, "against", "ticket_minus_"),
        ],
        "numbers": {
            "verdict": found.verdict,
            "endpoint": found.settings["endpoint"],
            "trainings": len(found.trainings),
            "diverged": found.diverged,
            **dict(_gaps(found.difference)),
            **dict(_matching(found.matching_range)),
        },
    }


def figures(report: Path) -> dict[str, Path]:
    """The pictures of a report, by name; none where there is no report."""
    return {p.stem: p for p in sorted(report.rglob("*.png"))}


def _gaps(difference: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """Ticket minus control at the sparsest level, for lists of runs."""
    for row in difference.sort_values("level").groupby("against").tail(1).to_dict("records"):
        for key in ("density", "mean", "low", "high", "n"):
            yield f"gap/{row['against']}/{key}", _known(row[key])


def _matching(ranges: pd.DataFrame) -> Iterator[tuple[str, Any]]:
    """The densities between which a ticket stops to match, by tolerance."""
    for row in ranges.to_dict("records"):
        for key in ("epsilon", "sparsest_before_failure", "sparsest_certain", "point_rule"):
            yield f"matching_range/{row['tolerance']}/{key}", _known(row[key])


def _curves(table: pd.DataFrame, key: str, prefix: str) -> Iterator[dict[str, Any]]:
    for row in table.to_dict("records"):
        name = f"across_seeds/{prefix}{row[key]}"
        known = {bound: _known(row[bound]) for bound in BOUNDS if bound in row}
        yield {
            "density": row["density"],
            "level": row["level"],
            **{f"{name}/{bound}": value for bound, value in known.items() if value is not None},
        }


def _table(table: pd.DataFrame) -> Table:
    rows = [[_known(v) for v in row.values()] for row in table.to_dict("records")]
    return list(table.columns), rows


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
