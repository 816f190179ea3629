"""Ticket minus each control, with intervals and simultaneous bands."""

from __future__ import annotations

from analysis.figure import Figure, Panel, Series, Subject, percent

ORDER = 2
TITLE = "Ticket minus control"


def draw(subject: Subject) -> Figure | None:
    """Paired differences by density, one panel per control."""
    table = subject.proof.difference
    if table.empty:
        return None
    panels = []
    for against, part in table.groupby("against"):
        part = part.sort_values("level")
        x = list(part["density"])
        colour = subject.colour(str(against))
        hover = [
            f"level {r.level}, density {percent(r.density)}<br>{100 * r.mean:+.2f} points "
            f"[{100 * r.low:+.2f}, {100 * r.high:+.2f}], n = {r.n}"
            for r in part.itertuples()
        ]
        several = part["low"].notna().all()
        series = [
            Series(label="no difference", x=x, y=[0.0] * len(x), colour="#888888", kind="rule"),
            Series(
                label=f"ticket - {against}",
                x=x,
                y=list(100 * part["mean"]),
                low=list(100 * part["low"]) if several else None,
                high=list(100 * part["high"]) if several else None,
                colour=colour,
                hover=hover,
            ),
        ]
        if several:
            for edge in ("band_low", "band_high"):
                y = list(100 * part[edge])
                series.append(Series(label="band", x=x, y=y, colour=colour, kind="faint"))
        panels.append(
            Panel(
                title=f"against {against}",
                x="density",
                y="difference, points",
                series=series,
                log_x=True,
                falling_x=True,
            )
        )
    return Figure(
        name="difference",
        title=TITLE,
        caption="Paired by seed, 95 % t interval at each level (band). The faint lines bound all "
        "levels together (Bonferroni): a claim about some level picked afterwards needs those.",
        panels=panels,
        data=table,
    )
