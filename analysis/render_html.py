"""Figures as Plotly descriptions for a page, and the page's one copy of Plotly."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Sequence
from typing import Any

from analysis.axis import LogAxis, x_axis, y_axis
from analysis.figure import Figure, Panel, Series

MARKED = 30
"""Lines of more points than this have no markers."""


def plotly_source() -> str:
    """Plotly's script, gzipped and in base64: 2 MB instead of 5."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()


def describe(figure: Figure) -> list[dict[str, Any]]:
    """One ``{data, layout}`` per panel, in plain JSON values."""
    return [_image(p) if p.image is not None else _panel(p) for p in figure.panels]


def _panel(panel: Panel) -> dict[str, Any]:
    x, y = x_axis(panel), y_axis(panel)
    layout: dict[str, Any] = {
        "margin": {"l": 44, "r": 10, "t": 8, "b": 44},
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": _small(panel.x), "zeroline": False},
        "yaxis": {"automargin": True, "zeroline": False},
    }
    if x is not None:
        layout["xaxis"] |= _log(x, falling=True)
    if y is not None:
        layout["yaxis"] |= _log(y)
    elif panel.range_y is not None:
        layout["yaxis"] |= {"range": list(panel.range_y)}
    elif panel.from_zero:
        layout["yaxis"] |= {"rangemode": "tozero"}
    return {"data": [t for s in panel.series for t in _traces(s, y)], "layout": layout}


def _small(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 8, "font": {"size": 12.5}}


def _log(axis: LogAxis, *, falling: bool = False) -> dict[str, Any]:
    ends = [math.log10(axis.low), math.log10(axis.high)]
    return {
        "type": "log",
        "range": ends[::-1] if falling else ends,
        "tickvals": list(axis.ticks),
        "ticktext": list(axis.texts),
    }


def _image(panel: Panel) -> dict[str, Any]:
    assert panel.image is not None
    highest = max(v for row in panel.image for v in row)
    heat = {
        "type": "heatmap",
        "z": _plain(panel.image),
        "colorscale": "Cividis",
        "zmin": 0,
        "zmax": _plain([highest or 1.0])[0],
        "colorbar": {"thickness": 9, "ticksuffix": " %", "outlinewidth": 0, "nticks": 5},
        "hovertemplate": "row %{y}, column %{x}: %{z:.3g} %<extra></extra>",
    }
    layout = {
        "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
        "xaxis": {"visible": False, "constrain": "domain"},
        "yaxis": {"visible": False, "autorange": "reversed", "scaleanchor": "x"},
    }
    return {"data": [heat], "layout": layout}


def _traces(series: Series, axis: LogAxis | None) -> list[dict[str, Any]]:
    def heights(values: Sequence[float]) -> Any:
        return _plain(axis.clip(values) if axis is not None else values)

    shared = {"type": "scatter", "x": _plain(series.x), "name": series.label}
    main = {**shared, "y": heights(series.y), **_look(series)}
    if series.hover is not None:
        main |= {"text": list(series.hover), "hovertemplate": "%{text}<extra></extra>"}
    elif series.kind in ("faint", "rule"):
        main |= {"hoverinfo": "skip"}
    if series.low is None or series.high is None:
        return [main]
    edge = {**shared, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    fill = {"fill": "tonexty", "fillcolor": series.colour + "26"}
    return [{**edge, "y": heights(series.high)}, {**edge, "y": heights(series.low), **fill}, main]


def _look(series: Series) -> dict[str, Any]:
    line = {"color": series.colour, "dash": "dash" if series.dash else "solid"}
    if series.kind == "faint":
        return {"mode": "lines", "opacity": 0.3, "line": {**line, "width": 1}}
    if series.kind == "points":
        hollow = series.hollow or [False] * len(series.x)
        symbols = ["circle-open" if h else "circle" for h in hollow]
        marker = {"color": series.colour, "size": 7, "symbol": symbols}
        return {"mode": "markers", "opacity": 0.55, "marker": marker}
    if series.kind == "stairs":
        return {"mode": "lines", "line": {**line, "width": 1.8, "shape": "hvh"}}
    if series.kind == "rule":
        return {"mode": "lines", "line": {**line, "width": 1.6}}
    marked = len(series.x) <= MARKED
    look = {"mode": "lines+markers" if marked else "lines", "line": {**line, "width": 2.4}}
    return {**look, "marker": {"color": series.colour, "size": 6.5}}


def _plain(values: Any) -> Any:
    """Numbers as JSON has them, six digits each: what is not finite becomes null."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(v) for v in values]
    number = float(values)
    return float(f"{number:.6g}") if math.isfinite(number) else None
