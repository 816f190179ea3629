"""How the surviving weights are distributed at the start and at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figure import START, Figure, Panel, Series, Subject, percent
from lth.store.stored import Stored

ORDER = 7
TITLE = "Surviving weights"
BINS = 61
MOST = 500_000
"""Of larger networks about so many weights are counted, at equal distances."""


def draw(subject: Subject) -> Figure | None:
    """Histograms of the ticket's living weights before and after training, all seeds together."""
    panels, rows = [], []
    for level in subject.shown:
        trained = [subject.stored(r.training) for r in subject.rows(level)]
        values = {when: _living(trained, when) for when in ("start", "end")}
        if any(not len(v) for v in values.values()):
            continue
        both = np.abs(np.concatenate(list(values.values())))
        limit = float(np.quantile(both, 0.995)) or 1.0
        edges = np.linspace(-limit, limit, BINS)
        series = []
        for when, own in values.items():
            density, _ = np.histogram(own, edges, density=True)
            centres = (edges[1:] + edges[:-1]) / 2
            colour = subject.colour("ticket") if when == "end" else START
            x, y = list(centres), list(density)
            series.append(Series(label=f"at the {when}", x=x, y=y, colour=colour, kind="stairs"))
            rows += [
                {"level": level, "when": when, "weight": float(c), "frequency": float(d)}
                for c, d in zip(centres, density, strict=True)
            ]
        title = f"level {level}, {percent(subject.density(level))}" if level else "dense"
        panels.append(Panel(title=title, x="weight", y="frequency", series=series))
    if not panels:
        return None
    return Figure(
        name="weights",
        title=TITLE,
        caption="Prunable weights that the ticket keeps, at the start and at the end of their "
        "training, all layers and seeds together; the outermost 0.5 % are left out.",
        panels=panels,
        data=pd.DataFrame(rows),
    )


def _living(trained: list[Stored], when: str) -> np.ndarray:
    """All of them; none where the store was told not to keep them."""
    parts = []
    for stored in trained:
        mask = stored.weight_mask("start" if when == "start" else "end")
        try:
            weights = stored.state(when).weights
        except KeyError:
            return np.empty(0)
        values = np.concatenate([weights[n][kept].numpy() for n, kept in mask.items()])
        parts.append(values[:: max(1, len(values) // MOST)])
    return np.concatenate(parts) if parts else np.empty(0)
