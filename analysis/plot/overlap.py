"""Mask overlap against chance."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject

ORDER = 8
TITLE = "Mask overlap against chance"


def draw(subject: Subject) -> Figure | None:
    """Left: other masks of the same seed. Right: live inputs between seeds.

    Hidden units may be permuted, so between seeds only the input side of the
    first layer can be compared.
    """
    within = pd.DataFrame(_within(subject))
    between = pd.DataFrame(_between(subject))
    panels = []
    if not within.empty:
        series = [
            _ratio(subject, str(variant), part, str(variant))
            for variant, part in within.groupby("variant")
        ]
        panels.append(_panel("ticket and other masks of its seed", series, within))
    if not between.empty:
        panels.append(
            _panel(
                "live inputs of two seeds' tickets",
                [_ratio(subject, "ticket", between, "tickets of two seeds")],
                between,
            )
        )
    if not panels:
        return None
    return Figure(
        name="overlap",
        title=TITLE,
        caption="Positions that two masks share, over the number expected of independent masks "
        "with the same counts in each layer (hypergeometric): 1 is chance. Bands are the range "
        "over seeds or pairs of seeds.",
        panels=panels,
        data=pd.concat([within, between], ignore_index=True),
    )


def _within(subject: Subject) -> Iterator[dict[str, Any]]:
    for level in subject.levels[1:]:
        tickets = {r.seed: subject.stored(r.training).mask() for r in subject.rows(level)}
        for variant in subject.variants[1:]:
            for r in subject.rows(level, variant):
                other, own = subject.stored(r.training).mask(), tickets.get(r.seed)
                if own is None or all(bool((own[n] == other[n]).all()) for n in own):
                    continue
                shared = sum(int((own[n] & other[n]).sum()) for n in own)
                chance = sum(int(own[n].sum()) * int(other[n].sum()) / own[n].numel() for n in own)
                yield _row(subject, level, variant, f"seed {r.seed}", shared, chance)


def _between(subject: Subject) -> Iterator[dict[str, Any]]:
    for level in subject.levels[1:]:
        live = {}
        for r in subject.rows(level):
            first = next(iter(subject.stored(r.training).mask().values()))
            if first.ndim != 2:
                return  # every input of a convolution stays live
            live[r.seed] = first.any(0).numpy()
        for (a, x), (b, y) in combinations(live.items(), 2):
            chance = int(x.sum()) * int(y.sum()) / len(x)
            shared = int(np.sum(x & y))
            yield _row(subject, level, "ticket", f"seeds {a} and {b}", shared, chance)


def _row(
    subject: Subject, level: int, variant: str, pair: str, shared: int, chance: float
) -> dict[str, Any]:
    return {
        "level": level,
        "density": subject.density(level),
        "variant": variant,
        "pair": pair,
        "shared": shared,
        "chance": chance,
        "ratio": shared / chance if chance else float("nan"),
    }


def _ratio(subject: Subject, variant: str, part: pd.DataFrame, label: str) -> Series:
    ratios = part.groupby("level")["ratio"]
    density = part.groupby("level")["density"].mean()
    return Series(
        label=label,
        x=list(density),
        y=list(ratios.mean()),
        low=list(ratios.min()),
        high=list(ratios.max()),
        colour=subject.colour(variant),
        hover=[f"level {i}: {m:.3f} times chance" for i, m in ratios.mean().items()],
    )


def _panel(title: str, series: list[Series], data: pd.DataFrame) -> Panel:
    ends = [float(data["density"].max()), float(data["density"].min())]
    chance = Series(label="chance", x=ends, y=[1.0, 1.0], colour="#888888", kind="rule", dash=True)
    return Panel(
        title=title,
        x="density",
        y="overlap / chance",
        series=[chance, *series],
        log_x=True,
        falling_x=True,
    )
