"""Instability: the error barrier between copies of a ticket, where it was measured."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import SPARE, Figure, Panel, Series, Subject, percent
from analysis.stats import estimate
from lth.store.run_folder import RunFolder

ORDER = 9
TITLE = "Instability"
COLUMNS = ("pair", "variant", "level", "density", "seed", "split", "barrier")
"""What is read of ``connect*.csv``; ``barrier`` is a fraction of error, one row per line walked."""


def read(folder: RunFolder) -> pd.DataFrame:
    """The tables that ``analysis.connect`` left in the run's report folder, one below the other."""
    tables = [pd.read_csv(p) for p in sorted(folder.report.glob("connect*.csv"))]
    tables += [pd.read_parquet(p) for p in sorted(folder.report.glob("connect*.parquet"))]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def draw(subject: Subject) -> Figure | None:
    """The barrier against density, one panel per split, one line per kind of pair."""
    data = read(subject.folder)
    if data.empty or not set(COLUMNS) <= set(data.columns):
        return None
    panels = [
        Panel(
            title=f"{split} error",
            x="density (weights kept)",
            y="error barrier, points",
            series=_lines(subject, part),
            x_axis="density",
            from_zero=True,
        )
        for split, part in data.groupby("split", sort=False)
    ]
    return Figure(
        name="instability",
        title=TITLE,
        caption="The highest error on the straight line between two networks, above the mean of "
        "its ends: near 0 they lie in one basin, and the training is stable to its noise. Means "
        "over seeds, bands their 95 % t intervals.",
        panels=panels,
        data=data,
    )


def _lines(subject: Subject, data: pd.DataFrame) -> list[Series]:
    kinds = list(data.groupby(["pair", "variant"], sort=False))
    first = data["pair"].iloc[0]
    found = []
    for index, ((pair, variant), part) in enumerate(kinds):
        own = subject.colour(str(variant)) if pair == first else SPARE[index % len(SPARE)]
        by_seed: Any = part.groupby(["level", "seed"])["barrier"].mean()
        means = {i: estimate(list(100 * v)) for i, v in by_seed.groupby("level")}
        density = part.groupby("level")["density"].mean()
        banded = all(e.n > 1 for e in means.values())
        found.append(
            Series(
                label=f"{pair}: {variant}",
                x=[float(density[i]) for i in means],
                y=[e.mean for e in means.values()],
                low=[e.low for e in means.values()] if banded else None,
                high=[e.high for e in means.values()] if banded else None,
                colour=own,
                hover=[
                    f"<b>{pair}: {variant}</b>, level {i}, density {percent(density[i])}<br>"
                    f"{e.mean:.2f} points, n = {e.n}"
                    for i, e in means.items()
                ],
            )
        )
    return found
