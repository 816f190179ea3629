"""Ticket minus each control, with intervals and simultaneous bands."""

from __future__ import annotations

import pandas as pd

from analysis.figure import NEUTRAL, Figure, Panel, Series, Subject, interval, percent

ORDER = 2
TITLE = "Ticket minus control"


def draw(subject: Subject) -> Figure | None:
    """Paired differences by density, one panel per control."""
    table = subject.proof.difference
    if table.empty:
        return None
    return Figure(
        name="difference",
        title=TITLE,
        caption="Above 0 the ticket is more accurate. Paired by seed; the band is the 95 % t "
        "interval at each level. The faint lines bound all levels together (Bonferroni): a claim "
        "about some level that is picked afterwards needs those; where they leave the "
        "panel, difference.csv has them.",
        panels=[
            Panel(
                title=f"against {against}",
                x="density (weights kept)",
                y="difference in test accuracy, points",
                series=_series(subject, str(against), part.sort_values("level")),
                x_axis="density",
                range_y=_scale(part),
            )
            for against, part in table.groupby("against")
        ],
        data=table,
    )


def _scale(part: pd.DataFrame) -> tuple[float, float]:
    """What means, intervals and 0 span, in points: few seeds make bounds that dwarf them."""
    values = (100 * part[["mean", "low", "high"]]).clip(-100, 100)
    low, high = min(0.0, float(values.min().min())), max(0.0, float(values.max().max()))
    pad = 0.25 * (high - low) or 1.0
    return low - pad, high + pad


def _series(subject: Subject, against: str, part: pd.DataFrame) -> list[Series]:
    x = list(part["density"])
    colour = subject.colour(against)
    several = part["low"].notna().all()
    ends = [max(x), min(x)]
    found = [
        Series(label="0", x=ends, y=[0.0, 0.0], colour=NEUTRAL, kind="rule", key=False),
        Series(
            label=f"ticket − {against}",
            x=x,
            y=list(100 * part["mean"]),
            low=list(100 * part["low"]) if several else None,
            high=list(100 * part["high"]) if several else None,
            colour=colour,
            hover=[
                f"<b>ticket − {against}</b>, level {r.level}, density {percent(r.density)}<br>"
                f"{interval(r, unit='points', signed=True)}"
                for r in part.itertuples()
            ],
            key=False,
        ),
    ]
    for edge in ("band_low", "band_high") if several else ():
        y = list(100 * part[edge])
        found.append(Series(label=edge, x=x, y=y, colour=colour, kind="faint", key=False))
    return found
