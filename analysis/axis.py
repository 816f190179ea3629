"""Logarithmic axes that the page and the pictures draw alike: their ends and their ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.figure import Panel

MANTISSAS = ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0))
"""Ticks in each power of ten, from few to many."""

MOST = 8
"""Ticks that an axis has room for on a phone."""


@dataclass(frozen=True, kw_only=True)
class LogAxis:
    """A logarithmic axis from ``low`` to ``high``; what lies below ``low`` is drawn there."""

    low: float
    high: float
    ticks: Sequence[float]
    texts: Sequence[str]

    def clip(self, values: Sequence[float]) -> list[float]:
        """Values that a logarithm can take; what is not a number stays so."""
        return [float(v) if math.isnan(float(v)) else max(float(v), self.low) for v in values]


def x_axis(panel: Panel) -> LogAxis | None:
    """The density axis of a panel, or None where x is linear."""
    values = [float(v) for s in panel.series for v in s.x]
    return _fit(values, share=True) if panel.x_axis == "density" else None


def y_axis(panel: Panel) -> LogAxis | None:
    """The logarithmic y axis of a panel, or None where y is linear."""
    if panel.y_axis == "linear":
        return None
    if panel.range_y is not None:
        return _axis(*panel.range_y, share=panel.y_axis == "share")
    # Bands may reach 0; they do not decide where the axis ends.
    values = [float(v) for s in panel.series for v in s.y]
    return _fit(values, share=panel.y_axis == "share")


def _fit(values: Sequence[float], *, share: bool) -> LogAxis:
    known = [v for v in values if math.isfinite(v) and v > 0] or [1.0]
    low, high = min(known), max(known)
    pad = max((high / low) ** 0.05, 1.06)
    if any(v <= 0 for v in values):
        # Room for what is 0, at the lower end.
        low /= 2
    return _axis(low / pad, high * pad, share=share)


def _axis(low: float, high: float, *, share: bool) -> LogAxis:
    best: list[float] = []
    for mantissas in MANTISSAS:
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**e for e in powers for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) <= MOST or not best:
            best = ticks
    texts = [f"{100 * t:.4g} %" if share else f"{t:,.10g}" for t in best]
    return LogAxis(low=low, high=high, ticks=best, texts=texts)
