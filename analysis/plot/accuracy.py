"""Accuracy against density: the ticket, its controls, and dense."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent
from analysis.stats import by_seed

ORDER = 1
TITLE = "Accuracy against density"


def draw(subject: Subject) -> Figure | None:
    """Means with 95 % bands, single seeds as faint lines; density on a log axis, falling."""
    table = subject.proof.accuracy
    if table["mean"].isna().all():
        return None
    series: list[Series] = []
    seeds = 100 * by_seed(subject.proof.trainings, subject.endpoint)
    density = table[table["variant"] == "ticket"].set_index("level")["density"]
    for variant in subject.variants:
        part = table[(table["variant"] == variant) & table["mean"].notna()].sort_values("level")
        if variant not in seeds or part.empty:
            continue
        for _, own in seeds[variant].dropna().groupby("seed"):
            levels = own.index.get_level_values("level")
            series.append(
                Series(
                    label=variant,
                    x=[density[i] for i in levels],
                    y=list(own),
                    colour=subject.colour(variant),
                    kind="faint",
                )
            )
        series.append(_line(subject, variant, part, [density[i] for i in part["level"]]))
    dense = table[(table["variant"] == "ticket") & (table["level"] == 0)]
    series.append(
        Series(
            label="dense",
            x=[float(density.max()), float(density.min())],
            y=[100 * float(dense["mean"].iloc[0])] * 2,
            low=None if dense["low"].isna().all() else [100 * float(dense["low"].iloc[0])] * 2,
            high=None if dense["low"].isna().all() else [100 * float(dense["high"].iloc[0])] * 2,
            colour=subject.colour("dense"),
            kind="rule",
            dash=True,
        )
    )
    where = {"early_stop": "early stop", "final": "the end of training"}[subject.endpoint]
    return Figure(
        name="accuracy",
        title=TITLE,
        caption=f"Test accuracy at {where}. Lines are means over seeds (draws averaged within "
        "their seed), bands 95 % t intervals, faint lines single seeds; the dashed line and its "
        "band are the dense network.",
        panels=[
            Panel(
                x="density (share of weights kept)",
                y="test accuracy, %",
                series=series,
                log_x=True,
                falling_x=True,
            )
        ],
        data=table,
    )


def _line(subject: Subject, variant: str, part: pd.DataFrame, x: list[float]) -> Series:
    banded = part["low"].notna().all()
    interval = [
        f" [{100 * r.low:.2f}, {100 * r.high:.2f}]" if r.n > 1 else "" for r in part.itertuples()
    ]
    hover = [
        f"{variant}, level {r.level}, density {percent(r.density)}<br>"
        f"{100 * r.mean:.2f} %{text}, n = {r.n}"
        for r, text in zip(part.itertuples(), interval, strict=True)
    ]
    return Series(
        label=variant,
        x=x,
        y=list(100 * part["mean"]),
        low=list(100 * part["low"]) if banded else None,
        high=list(100 * part["high"]) if banded else None,
        colour=subject.colour(variant),
        hover=hover,
    )
