"""Figures as PNG (and PDF) files, drawn by matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.figure import Figure, Panel, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 2
"""Panels beside each other."""


def save(figure: Figure, path: Path, *, pdf: bool = False) -> None:
    """Write ``path`` (.png), and the same as .pdf beside it."""
    # The object interface: no pyplot, so no global state and no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    count = len(figure.panels)
    columns = min(COLUMNS, count)
    rows = math.ceil(count / columns)
    canvas = Canvas(figsize=(7.2 if columns == 1 else 5.2 * columns, 3.9 * rows + 0.5), dpi=130)
    FigureCanvasAgg(canvas)
    canvas.set_layout_engine("constrained")
    axes = canvas.subplots(rows, columns, squeeze=False).flatten()
    handles: dict[str, Any] = {}
    for panel, ax in zip(figure.panels, axes, strict=False):
        handles |= _image(panel, ax, canvas) if panel.image is not None else _panel(panel, ax)
    for ax in axes[count:]:
        ax.set_visible(False)
    canvas.suptitle(figure.title, fontsize=13, x=0.01, ha="left", weight="bold")
    if len(handles) > 1:
        canvas.legend(
            handles.values(),
            handles.keys(),
            loc="outside lower center",
            ncols=min(len(handles), 3 * columns),
            frameon=False,
        )
    canvas.savefig(path, metadata={"Software": None})
    if pdf:
        canvas.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})


def _panel(panel: Panel, ax: Axes) -> dict[str, Any]:
    handles: dict[str, Any] = {}
    for series in panel.series:
        line = _series(series, ax)
        if series.kind != "faint":
            handles[series.label] = line
    if panel.log_x:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda v, _: f"{100 * v:g} %")
        ax.xaxis.set_minor_formatter(lambda v, _: "")
    if panel.log_y:
        ax.set_yscale("symlog", linthresh=_smallest(panel))
    if panel.range_y is not None:
        ax.set_ylim(*panel.range_y)
    if panel.falling_x:
        ax.invert_xaxis()
    ax.set_title(panel.title, fontsize=10, loc="left")
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return handles


def _smallest(panel: Panel) -> float:
    """Where a logarithmic axis that must also show 0 turns linear."""
    positive = [v for s in panel.series for v in s.y if v > 0]
    return min(positive, default=1.0)


def _series(series: Series, ax: Axes) -> Any:
    x, y = np.asarray(series.x, float), np.asarray(series.y, float)
    style: dict[str, Any] = {"color": series.colour, "label": series.label}
    if series.kind == "faint":
        return ax.plot(x, y, **style, linewidth=0.8, alpha=0.35)[0]
    if series.kind == "stairs":
        return ax.plot(x, y, **style, drawstyle="steps-mid", linewidth=1.4)[0]
    if series.low is not None and series.high is not None:
        low, high = np.asarray(series.low, float), np.asarray(series.high, float)
        ax.fill_between(x, low, high, color=series.colour, alpha=0.16, linewidth=0)
    line = "--" if series.dash else "-"
    marker = "o" if series.kind == "line" and len(x) <= 40 else None
    return ax.plot(x, y, line, **style, marker=marker, markersize=3.5, linewidth=1.8)[0]


def _image(panel: Panel, ax: Axes, canvas: Any) -> dict[str, Any]:
    image = ax.imshow(np.asarray(panel.image, float), cmap="cividis", vmin=0)
    ax.set_title(panel.title, fontsize=10, loc="left")
    ax.set_axis_off()
    canvas.colorbar(image, ax=ax, label=panel.scale, shrink=0.8)
    return {}
