"""Instability: error barriers by density, and error along the lines. Made by analysis.connect."""

from __future__ import annotations

import pandas as pd

from analysis.connect import STABLE, summarise
from analysis.figure import COLOURS as VARIANT_COLOURS
from analysis.figure import NEUTRAL, Figure, Panel, Series, Subject, percent

ORDER = 9
TITLE = "Instability"
COLOURS = {"order": VARIANT_COLOURS["other_order"], "levels": "#A63D57", "inits": "#8A5A44"}
"""Copies are what the control ``other_order`` is; the others are no variant's."""
LABELS = {
    "order": "copies (other data order)",
    "levels": "consecutive levels",
    "inits": "other initialisations",
}


def draw(subject: Subject) -> Figure | None:
    """Barriers with intervals; the mean test error along the lines of each level measured."""
    path = subject.folder.report / "connect.csv"
    if not path.exists():
        return None
    pairs = pd.read_csv(path)
    lines = pd.read_csv(subject.folder.report / "connect_lines.csv")
    # The run's own k: only copies of dense start from others too.
    own = pairs[(pairs["kind"] != "order") | (pairs["level"] > 0)]
    k = int((own if len(own) else pairs)["rewind_step"].min())
    table = summarise(pairs)
    own = table[(table["kind"] != "order") | (table["k"] == k) | (table["level"] > 0)]
    ends = [float(own["density"].max()), float(own["density"].min())]
    bound = [100 * STABLE] * 2
    series = [
        Series(
            label="stable below 2 points", x=ends, y=bound, colour=NEUTRAL, kind="rule", dash=True
        ),
        *(_series(str(kind), part) for kind, part in own.groupby("kind", sort=False)),
    ]
    panels = [
        Panel(
            title="Error barrier",
            x="density (weights kept)",
            y="test error barrier, points",
            series=series,
            x_axis="density",
        )
    ]
    lines = lines[(lines["rewind_step"] == k) | (lines["level"] > 0)]
    for level, part in lines.groupby("level"):
        density = percent(float(part["density"].mean()))
        panels.append(
            Panel(
                title=f"Along the line: {f'level {level}, {density}' if level else 'dense'}",
                x="from one network (0) to the other (1)",
                y="test error, %",
                series=[_line(str(kind), own) for kind, own in part.groupby("kind", sort=False)],
            )
        )
    return Figure(
        name="instability",
        title=TITLE,
        caption="Test error on the straight line between two trained networks. The barrier is its "
        "maximum above the mean of the ends; below 2 points copies count as stable (Frankle et "
        "al. 2020). Other initialisations are the positive control. Bands: 95 % t intervals.",
        panels=panels,
        data=table,
    )


def _series(kind: str, part: pd.DataFrame) -> Series:
    part = part.sort_values("level")
    several = part["low"].notna().all()
    return Series(
        label=LABELS[kind],
        x=list(part["density"]),
        y=list(100 * part["barrier"]),
        low=list(100 * part["low"]) if several else None,
        high=list(100 * part["high"]) if several else None,
        colour=COLOURS[kind],
        hover=[
            f"<b>{LABELS[kind]}</b>, level {r.level}<br>{100 * r.barrier:.2f} points, n = {r.n}"
            for r in part.itertuples()
        ],
    )


def _line(kind: str, part: pd.DataFrame) -> Series:
    error = 100 * part.groupby("alpha")["test_error"].mean()
    return Series(label=LABELS[kind], x=list(error.index), y=list(error), colour=COLOURS[kind])
