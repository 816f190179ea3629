"""Accuracy against density: the ticket, its controls, and dense."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, interval, percent
from analysis.stats import by_seed

ORDER = 1
TITLE = "Accuracy against density"
DENSITY = "density (weights kept)"
CLOSE = 2.5
"""A close-up is drawn where all that is shown spans this many times what tickets and dense do."""

MANY = 4
"""Of more variants than this only the ticket and the verdict's control have bands and seeds."""


def draw(subject: Subject) -> Figure | None:
    """Means with 95 % bands, single seeds as faint lines; density on a log axis, falling."""
    table = subject.proof.accuracy
    if table["mean"].isna().all():
        return None
    where = {"early_stop": "early stop", "final": "the end of training"}[subject.endpoint]
    whole: dict[str, Any] = {
        "x": DENSITY,
        "y": f"test accuracy at {where}, %",
        "series": [*_dense(subject), *_variants(subject)],
        "x_axis": "density",
        "range_y": scale(table),
    }
    panels = [Panel(**whole)]
    near = _near(table)
    if near is not None:
        panels = [
            Panel(**{**whole, "title": "All"}),
            Panel(**{**whole, "title": "Close-up of ticket and dense", "range_y": near}),
        ]
    return Figure(
        name="accuracy",
        title=TITLE,
        caption="Lines are means over seeds (draws averaged within their seed), bands their 95 % "
        "t intervals, faint lines single seeds"
        + (" (of the ticket and the verdict's control)" if len(subject.variants) > MANY else "")
        + ". The dashed line and its band are the dense network.",
        panels=panels,
        data=table,
    )


def _variants(subject: Subject) -> list[Series]:
    table = subject.proof.accuracy
    seeds = 100 * by_seed(subject.proof.trainings, subject.endpoint)
    density = subject.densities
    chief = ("ticket", subject.proof.settings["verdict_against"])
    found: list[Series] = []
    # The ticket comes last, so that it lies above its controls.
    for variant in [*subject.variants[1:], "ticket"]:
        part = table[(table["variant"] == variant) & table["mean"].notna()].sort_values("level")
        if variant not in seeds or part.empty:
            continue
        colour = subject.colour(variant)
        # Of many bands none can be seen; the hover and the table have every interval.
        clear = len(subject.variants) <= MANY or variant in chief
        if clear and subject.proof.trainings["seed"].nunique() > 1:
            for _, own in seeds[variant].dropna().groupby("seed"):
                x = [density[i] for i in own.index.get_level_values("level")]
                faint: dict[str, Any] = {"kind": "faint", "key": False}
                found.append(Series(label=variant, x=x, y=list(own), colour=colour, **faint))
        banded = clear and part["low"].notna().all()
        found.append(
            Series(
                label=variant,
                x=[density[i] for i in part["level"]],
                y=list(100 * part["mean"]),
                low=list(100 * part["low"]) if banded else None,
                high=list(100 * part["high"]) if banded else None,
                colour=colour,
                hover=[
                    f"<b>{variant}</b>, level {r.level}, density {percent(r.density)}<br>"
                    f"{interval(r)}"
                    for r in part.itertuples()
                ],
            )
        )
    return found


def _dense(subject: Subject) -> list[Series]:
    table = subject.proof.accuracy
    density = table[table["variant"] == "ticket"]["density"]
    (dense,) = table[(table["variant"] == "ticket") & (table["level"] == 0)].itertuples()
    known = not pd.isna(dense.low)
    return [
        Series(
            label="dense",
            x=[float(density.max()), float(density.min())],
            y=[100 * dense.mean] * 2,
            low=[100 * dense.low] * 2 if known else None,
            high=[100 * dense.high] * 2 if known else None,
            colour=subject.colour("dense"),
            kind="rule",
            dash=True,
        )
    ]


def scale(table: pd.DataFrame) -> tuple[float, float]:
    """What means and intervals span, in percent; an interval may leave 0 to 100, the axis not."""
    values = (100 * table[["mean", "low", "high"]]).clip(0, 100)
    low, high = float(values.min().min()), float(values.max().max())
    pad = 0.05 * (high - low) or 1.0
    return low - pad, high + pad


def _near(table: pd.DataFrame) -> tuple[float, float] | None:
    """The range of tickets and dense in percent, or None where all there is spans little more."""
    bounds = ["mean", "low", "high"]
    own = 100 * table[table["variant"] == "ticket"][bounds]
    low, high = float(own.min().min()), float(own.max().max())
    ends = scale(table)
    if high <= low or ends[1] - ends[0] < CLOSE * (high - low):
        return None
    pad = 0.15 * (high - low)
    return low - pad, high + pad
