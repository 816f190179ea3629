"""Which layers pay: density per layer over the levels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import RAMP, Figure, Panel, Series, Subject, percent

ORDER = 5
TITLE = "Density of each layer"


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
    shared: dict[str, Any] = {"x": "density of the network", "x_axis": "density"}
    each, count = _layers(data), data["layer"].nunique()
    which = "" if len(each) == count else f" ({len(each)} of {count} layers)"
    return Figure(
        name="layers",
        title=TITLE,
        caption=f"Left: the share of its weights that each layer keeps{which}, mean over seeds; "
        "darker is nearer to the input. Right: the weights left in the smallest layer, band the "
        "range over seeds. A layer with none left has collapsed; it lies on the lower edge.",
        panels=[
            Panel(title="By layer", y="weights kept", series=each, y_axis="share", **shared),
            Panel(
                title="The smallest layer",
                y="weights left in it",
                series=[_smallest(subject, data)],
                y_axis="log",
                **shared,
            ),
        ],
        data=data,
    )


def _layers(data: pd.DataFrame) -> list[Series]:
    """One line per layer; of deeper networks the first, the last and some between."""
    means = data.groupby(["layer", "level"], sort=False)[["density", "layer_density"]].mean()
    names = list(dict.fromkeys(data["layer"]))
    if len(names) > len(RAMP):
        last = len(RAMP) - 1
        names = [names[round(i * (len(names) - 1) / last)] for i in range(len(RAMP))]
    found = []
    for index, name in enumerate(names):
        part = means.loc[name]
        shade = RAMP[round(index * (len(RAMP) - 2) / max(1, len(names) - 1))]
        found.append(
            Series(
                label=name.removesuffix(".weight"),
                x=list(part["density"]),
                y=list(part["layer_density"]),
                colour=shade if len(names) < len(RAMP) else RAMP[index],
                hover=[
                    f"<b>{name}</b>, level {level}<br>{percent(r.layer_density)} left"
                    for level, r in zip(part.index, part.itertuples(), strict=True)
                ],
            )
        )
    return found


def _smallest(subject: Subject, data: pd.DataFrame) -> Series:
    smallest = data.loc[data.groupby(["level", "seed"])["kept"].idxmin()]
    kept = smallest.groupby("level")["kept"]
    return Series(
        label="fewest weights in a layer",
        x=list(smallest.groupby("level")["density"].mean()),
        y=list(kept.mean()),
        low=list(kept.min()),
        high=list(kept.max()),
        colour=subject.colour("ticket"),
        hover=[
            f"level {level}: {', '.join(sorted(set(part['layer'])))}<br>"
            f"{part['kept'].mean():,.0f} weights (fewest {part['kept'].min():,})"
            for level, part in smallest.groupby("level")
        ],
        key=False,
    )
