"""Which layers pay: density per layer over the levels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import SPARE, Figure, Panel, Series, Subject, percent

ORDER = 5
TITLE = "Density of each layer"
SHOWN = 6
"""Layers that get a line of their own; of deeper networks those at equal distances."""


def draw(subject: Subject) -> Figure | None:
    """Layer densities of the ticket, and the smallest layer's surviving weights."""
    rows = [
        {
            "level": level,
            "seed": r.seed,
            "density": r.density,
            "layer": name,
            "layer_density": c["kept"] / c["all"],
            "kept": c["kept"],
            "all": c["all"],
        }
        for level in subject.levels
        for r in subject.rows(level)
        for name, c in subject.stored(r.training).done["layers"].items()
    ]
    data = pd.DataFrame(rows)
    if len(subject.levels) < 2:
        return None
    means = data.groupby(["layer", "level"], sort=False)[["density", "layer_density"]].mean()
    names = list(dict.fromkeys(data["layer"]))
    step = max(1, -(-len(names) // SHOWN))
    palette = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", *SPARE)
    series = []
    for index, name in enumerate(names[::step]):
        part = means.loc[name]
        series.append(
            Series(
                label=name.removesuffix(".weight"),
                x=list(part["density"]),
                y=list(part["layer_density"]),
                colour=palette[index],
                hover=[f"{name}, {percent(r.layer_density)} left" for r in part.itertuples()],
            )
        )
    smallest = data.loc[data.groupby(["level", "seed"])["kept"].idxmin()]
    kept = smallest.groupby("level")["kept"]
    fewest = Series(
        label="fewest weights in a layer",
        x=list(smallest.groupby("level")["density"].mean()),
        y=list(kept.mean()),
        low=list(kept.min()),
        high=list(kept.max()),
        colour="#0072B2",
        hover=[
            f"level {level}: {', '.join(sorted(set(part['layer'])))}<br>{part['kept'].mean():.0f} "
            "weights"
            for level, part in smallest.groupby("level")
        ],
    )
    axis: dict[str, Any] = {
        "x": "density of the network",
        "log_x": True,
        "falling_x": True,
        "log_y": True,
    }
    return Figure(
        name="layers",
        title=TITLE,
        caption="Left: the share of weights that each layer keeps (means over seeds). Right: the "
        "weights left in the smallest layer, range over seeds; at 0 the layer has collapsed.",
        panels=[
            Panel(title="by layer", y="density of the layer", series=series, **axis),
            Panel(title="the smallest layer", y="weights left", series=[fewest], **axis),
        ],
        data=data,
    )
