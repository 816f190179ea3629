"""What a finished run found, as plain values: what a mirror of it shows beside its trainings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.compare import settings
from analysis.frame import frame
from analysis.stats import by_seed, estimate, paired_difference, verdict
from lth.store.run_folder import RunFolder

Table = tuple[list[str], list[list[Any]]]


def findings(folder: RunFolder) -> dict[str, Any]:
    """``tables`` (name: columns, rows), ``curves`` (rows by density), ``numbers``, ``figures``.

    Numbers are fractions; what a run does not know is None, in a curve left out.
    """
    data = frame([folder])
    config = settings(folder)
    across = _across(data, config)
    gap = _gap(data, config)
    return {
        "tables": {"accuracy": _table(across), "gap": _table(gap)},
        "curves": [*_curves(across, "variant"), *_curves(gap, "against", "ticket_minus_")],
        "numbers": {
            "verdict": verdict(data, config),
            "endpoint": config["endpoint"],
            "trainings": len(data),
            "diverged": int((data["status"] == "diverged").sum()),
            **_gap_numbers(gap),
        },
        "figures": figures(folder.report),
    }


def figures(report: Path) -> dict[str, Path]:
    """The pictures of a report, by name; none where there is no report."""
    return {p.stem: p for p in sorted(report.rglob("*.png"))}


def _across(data: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    values = by_seed(data, config["endpoint"])
    density = data.groupby(["level", "variant"])["density"].mean()
    rows = []
    for (level, variant), mean in density.items():
        known = estimate(list(values.loc[[level], variant].dropna()))
        rows.append(_row(level, "variant", variant, mean, known))
    return pd.DataFrame(rows)


def _gap(data: pd.DataFrame, config: Mapping[str, Any]) -> pd.DataFrame:
    """Ticket minus control by level, for every control."""
    density = data[data["variant"] == "ticket"].groupby("level")["density"].mean()
    rows = []
    for control in sorted(set(data["variant"]) - {"ticket"}):
        difference = paired_difference(data, config["endpoint"], control)
        for level, values in difference.groupby("level"):
            rows.append(_row(level, "against", control, density[level], estimate(list(values))))
    return pd.DataFrame(rows, columns=["level", "against", "density", "mean", "low", "high", "n"])


def _row(level: Any, key: str, name: Any, density: Any, found: Any) -> dict[str, Any]:
    return {
        "level": int(level),
        key: str(name),
        "density": float(density),
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
    }


def _gap_numbers(gap: pd.DataFrame) -> dict[str, Any]:
    """The gap at the sparsest level, for lists of runs."""
    last = gap.sort_values("level").groupby("against").tail(1).to_dict("records")
    return {f"gap/{row['against']}/{k}": _known(row[k]) for row in last for k in _SHOWN}


_SHOWN = ("density", "mean", "low", "high", "n")


def _curves(table: pd.DataFrame, key: str, prefix: str = "") -> list[dict[str, float]]:
    return [
        {
            "density": row["density"],
            "level": row["level"],
            **{
                f"across_seeds/{prefix}{row[key]}/{k}": row[k]
                for k in ("mean", "low", "high", "n")
                if not math.isnan(row[k])
            },
        }
        for row in table.to_dict("records")
    ]


def _table(table: pd.DataFrame) -> Table:
    rows = [[_known(v) for v in row.values()] for row in table.to_dict("records")]
    return list(table.columns), rows


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
