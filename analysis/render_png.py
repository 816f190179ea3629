"""Figures as PNG (and PDF) files, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import whole
from analysis.axis import LogAxis, x_axis, y_axis
from analysis.figure import Figure, Panel, Series
from analysis.render_html import MARKED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT = "#1B2430", "#5B6673"


def save(figure: Figure, path: Path, *, pdf: bool = False) -> None:
    """Write ``path`` (.png), and the same as .pdf beside it."""
    # The object interface: no pyplot, so no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    count = len(figure.panels)
    columns = min(figure.columns, count)
    rows = math.ceil(count / columns)
    image = figure.panels[0].image is not None
    width = 7.4 if columns == 1 else 3.6 * columns if image else 5.0 * columns
    canvas = Canvas(figsize=(width, (3.0 if image else 3.6) * rows + 0.6), dpi=120)
    FigureCanvasAgg(canvas)
    canvas.set_layout_engine("constrained", w_pad=0.1, h_pad=0.08)
    axes = canvas.subplots(rows, columns, squeeze=False).flatten()
    for panel, ax in zip(figure.panels, axes, strict=False):
        _image(panel, ax, canvas) if panel.image is not None else _panel(panel, ax)
    for ax in axes[count:]:
        ax.set_visible(False)
    canvas.suptitle(figure.title, fontsize=12, x=0.01, ha="left", weight="bold", color=INK)
    if len(figure.keys) > 1:
        _legend(figure, canvas, columns)
    _save(canvas, path, {"Software": None})
    if pdf:
        _save(canvas, path.with_suffix(".pdf"), {"CreationDate": None})


def _save(canvas: Any, path: Path, metadata: dict[str, None]) -> None:
    drawn = io.BytesIO()
    canvas.savefig(drawn, format=path.suffix[1:], metadata=metadata)
    whole.write(path, drawn.getvalue())


def _legend(figure: Figure, canvas: Any, columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=c, linewidth=2.4, label=label) for label, c in figure.keys]
    place: dict[str, Any] = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    canvas.legend(handles=handles, ncols=min(len(handles), 3 * columns), **place)


def _panel(panel: Panel, ax: Axes) -> None:
    x, y = x_axis(panel), y_axis(panel)
    for series in panel.series:
        _series(series, ax, y)
    if x is not None:
        ax.set_xscale("log")
        ax.set_xlim(x.high, x.low)
        _ticks(ax.xaxis, x)
    if y is not None:
        ax.set_yscale("log")
        ax.set_ylim(y.low, y.high)
        _ticks(ax.yaxis, y)
    elif panel.range_y is not None:
        ax.set_ylim(*panel.range_y)
    elif panel.from_zero:
        ax.set_ylim(bottom=0)
    # The y axis is named above it, where it can be read without turning the head.
    title = "\n".join(t for t in (panel.title, panel.y) if t)
    ax.set_title(title, fontsize=9.5, loc="left", color=INK)
    ax.set_xlabel(panel.x, fontsize=9.5, color=SOFT)
    ax.tick_params(labelsize=8.5, color=SOFT, labelcolor=SOFT)
    ax.grid(alpha=0.22)
    ax.spines[["top", "right"]].set_visible(False)


def _ticks(axis: Any, own: LogAxis) -> None:
    axis.set_major_locator(_fixed(own.ticks))
    axis.set_major_formatter(lambda value, place: own.texts[place] if place is not None else "")
    axis.set_minor_locator(_fixed([]))


def _fixed(ticks: Any) -> Any:
    from matplotlib.ticker import FixedLocator

    return FixedLocator(list(ticks))


def _series(series: Series, ax: Axes, axis: LogAxis | None) -> None:
    def heights(values: Any) -> Any:
        return np.asarray(axis.clip(values) if axis is not None else values, float)

    x, y = np.asarray(series.x, float), heights(series.y)
    if series.low is not None and series.high is not None:
        band: dict[str, Any] = {"color": series.colour, "alpha": 0.15, "linewidth": 0}
        ax.fill_between(x, heights(series.low), heights(series.high), **band)
    line = "--" if series.dash else "-"
    if series.kind == "faint":
        ax.plot(x, y, line, color=series.colour, linewidth=0.8, alpha=0.3)
    elif series.kind == "points":
        hollow = np.asarray(series.hollow or [False] * len(x))
        own: dict[str, Any] = {"edgecolors": series.colour, "alpha": 0.55, "s": 18}
        ax.scatter(x[~hollow], y[~hollow], color=series.colour, **own)
        ax.scatter(x[hollow], y[hollow], facecolors="none", **own)
    elif series.kind == "stairs":
        ax.plot(x, y, color=series.colour, drawstyle="steps-mid", linewidth=1.4)
    elif series.kind == "rule":
        ax.plot(x, y, line, color=series.colour, linewidth=1.3)
    else:
        marker = "o" if len(x) <= MARKED else None
        ax.plot(x, y, line, color=series.colour, marker=marker, markersize=3.5, linewidth=1.9)


def _image(panel: Panel, ax: Axes, canvas: Any) -> None:
    assert panel.image is not None
    image = np.asarray(panel.image, float)
    drawn = ax.imshow(image, cmap="cividis", vmin=0, vmax=float(image.max()) or 1.0)
    ax.set_title(panel.title, fontsize=9.5, loc="left", color=INK)
    ax.set_axis_off()
    bar = canvas.colorbar(drawn, ax=ax, shrink=0.8, format=lambda value, _: f"{value:g} %")
    bar.ax.tick_params(labelsize=8, color=SOFT, labelcolor=SOFT)
    bar.outline.set_visible(False)
