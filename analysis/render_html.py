"""Figures as Plotly descriptions for a page, and the page's one copy of Plotly."""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Sequence
from typing import Any

from analysis.figure import Figure, Panel, Series


def plotly_source() -> str:
    """Plotly's script, gzipped and in base64: 2 MB instead of 5."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 6, mtime=0)).decode()


def describe(figure: Figure) -> list[dict[str, Any]]:
    """One ``{data, layout}`` per panel, in plain JSON values."""
    return [_panel(panel) for panel in figure.panels]


def legend(figure: Figure) -> list[tuple[str, str]]:
    """(label, colour) of what is drawn, each once."""
    found = {
        series.label: series.colour
        for panel in figure.panels
        for series in panel.series
        if series.kind != "faint"
    }
    return list(found.items())


def _panel(panel: Panel) -> dict[str, Any]:
    layout: dict[str, Any] = {
        "title": {"text": panel.title, "x": 0.01, "font": {"size": 14}},
        "margin": {"l": 58, "r": 14, "t": 34 if panel.title else 12, "b": 46},
        "height": 340,
        "showlegend": False,
        "hovermode": "closest",
        "xaxis": {"title": {"text": panel.x}, "automargin": True},
        "yaxis": {"title": {"text": panel.y}, "automargin": True},
    }
    if panel.image is not None:
        layout["xaxis"] = {"visible": False, "constrain": "domain"}
        layout["yaxis"] = {"visible": False, "autorange": "reversed", "scaleanchor": "x"}
        layout["height"] = 280
        layout["margin"] = {"l": 8, "r": 8, "t": 34, "b": 8}
        heat = {
            "type": "heatmap",
            "z": _plain(panel.image),
            "colorscale": "Cividis",
            "zmin": 0,
            "colorbar": {"title": {"text": panel.scale, "side": "right"}, "thickness": 12},
            "hovertemplate": "row %{y}, column %{x}: %{z:.3f}<extra></extra>",
        }
        return {"data": [heat], "layout": layout}
    if panel.log_x:
        layout["xaxis"] |= _density_axis(panel)
    if panel.log_y:
        layout["yaxis"] |= {"type": "log", "exponentformat": "power"}
    if panel.range_y is not None:
        layout["yaxis"] |= {"range": list(panel.range_y)}
    traces = [trace for series in panel.series for trace in _traces(series)]
    return {"data": traces, "layout": layout}


def _density_axis(panel: Panel) -> dict[str, Any]:
    """A log axis with ticks in percent: 100, 50, 20, 10, 5, ..."""
    values = [float(v) for s in panel.series for v in s.x]
    low, high = math.log10(min(values)), math.log10(max(values))
    pad = max(0.04 * (high - low), 0.02)
    ends = [high + pad, low - pad] if panel.falling_x else [low - pad, high + pad]
    places = range(math.floor(low) - 1, math.ceil(high) + 1)
    ticks = [m * 10.0**e for e in places for m in (1, 2, 5)]
    return {
        "type": "log",
        "range": ends,
        "tickvals": ticks,
        "ticktext": [f"{100 * t:g} %" for t in ticks],
    }


def _traces(series: Series) -> list[dict[str, Any]]:
    x, y = _plain(series.x), _plain(series.y)
    shared = {"type": "scatter", "legendgroup": series.label, "name": series.label}
    line: dict[str, Any] = {"color": series.colour, "width": 2.2}
    if series.dash:
        line["dash"] = "dash"
    if series.kind == "faint":
        return [
            {
                **shared,
                "x": x,
                "y": y,
                "mode": "lines",
                "line": {"color": series.colour, "width": 1},
                "opacity": 0.35,
                "hoverinfo": "skip",
            }
        ]
    if series.kind == "stairs":
        line["shape"] = "hvh"
    traces = []
    if series.low is not None and series.high is not None:
        edge = {**shared, "x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
        traces.append({**edge, "y": _plain(series.high)})
        fill = {"fill": "tonexty", "fillcolor": _faded(series.colour)}
        traces.append({**edge, "y": _plain(series.low), **fill})
    main = {
        **shared,
        "x": x,
        "y": y,
        "mode": "lines+markers" if series.kind == "line" and len(x) <= 40 else "lines",
        "line": line,
        "marker": {"color": series.colour, "size": 6},
    }
    if series.hover is not None:
        main |= {"text": list(series.hover), "hovertemplate": "%{text}<extra></extra>"}
    elif series.kind == "rule":
        main |= {"hovertemplate": f"{series.label}: %{{y:.2f}}<extra></extra>"}
    return [*traces, main]


def _faded(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"


def _plain(values: Any) -> Any:
    """Numbers as JSON has them: what is not finite becomes null."""
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [_plain(v) for v in values]
    if isinstance(values, str):
        return values
    number = float(values)
    return number if math.isfinite(number) else None
