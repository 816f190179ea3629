"""Mask overlap against chance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.figure import NEUTRAL, Figure, Panel, Series, Subject
from lth.types import Mask

ORDER = 8
TITLE = "Mask overlap against chance"
SINGLE = "lth.granularity.weights.Weights"
ALL = "all"
"""The row that sums a pair's layers."""


def chance(a: int, b: int, size: int) -> tuple[float, float]:
    """Mean and variance of the positions that two random masks share.

    They keep ``a`` and ``b`` of ``size`` positions: the hypergeometric
    distribution, ``a b / N`` and ``b (a / N) (1 - a / N) (N - b) / (N - 1)``.
    """
    share = a / size
    spread = b * share * (1 - share) * (size - b) / (size - 1) if size > 1 else 0.0
    return b * share, spread


def draw(subject: Subject) -> Figure | None:
    """Left: other masks of the same seed. Right: live inputs between seeds.

    Hidden units may be permuted, so between seeds only the input side of the
    first layer can be compared.
    """
    within, between = pd.DataFrame(_within(subject)), pd.DataFrame(_between(subject))
    panels = []
    if not within.empty:
        parts = within[within["layer"] == ALL].groupby("variant")
        lines = [_line(subject, str(variant), part, str(variant)) for variant, part in parts]
        panels.append(_panel("The ticket and other masks of its seed", lines, within))
    if not between.empty:
        line = _line(subject, "ticket", between, "tickets of two seeds")
        panels.append(_panel("Live inputs of two seeds' tickets", [line], between))
    if not panels:
        return None
    info = subject.folder.info() or {"invocations": [{}]}
    config = info["invocations"][-1].get("config") or {}
    target = str((config.get("granularity") or {}).get("_target_", ""))
    whole = " The band is that of single weights; masks of whole units spread more widely."
    whole = "" if target in ("", SINGLE) else whole
    return Figure(
        name="overlap",
        title=TITLE,
        caption="Positions that two masks share, over the number expected of random masks with "
        "the same counts in each layer: 1 is chance, and the grey band holds 95 % of random pairs "
        "(hypergeometric, by its mean and variance). Coloured bands are the range over seeds or "
        "pairs of seeds. Between seeds only inputs are compared: hidden units may be permuted."
        + whole,
        panels=panels,
        data=pd.concat([within, between], ignore_index=True),
    )


def _within(subject: Subject) -> Iterator[dict[str, Any]]:
    for level in subject.levels[1:]:
        tickets = {r.seed: subject.stored(r.training).weight_mask() for r in subject.rows(level)}
        for variant in subject.variants[1:]:
            for r in subject.rows(level, variant):
                other, own = subject.stored(r.training).weight_mask(), tickets.get(r.seed)
                if own is None or _shapes(own) != _shapes(other):
                    continue  # another network, such as a small dense one
                if all(bool((own[n] == other[n]).all()) for n in own):
                    continue
                layers = {
                    n: (
                        int((own[n] & other[n]).sum()),
                        *chance(int(own[n].sum()), int(other[n].sum()), own[n].numel()),
                    )
                    for n in own
                }
                total = tuple(sum(part) for part in zip(*layers.values(), strict=True))
                for name, found in {**layers, ALL: total}.items():
                    yield _row(subject, level, variant, f"seed {r.seed}", name, *found)


def _shapes(mask: Mask) -> dict[str, tuple[int, ...]]:
    return {n: tuple(m.shape) for n, m in mask.items()}


def _between(subject: Subject) -> Iterator[dict[str, Any]]:
    for level in subject.levels[1:]:
        live = {}
        for r in subject.rows(level):
            first = next(iter(subject.stored(r.training).weight_mask().values()))
            if first.ndim != 2:
                return  # every input of a convolution stays live
            live[r.seed] = first.any(0).numpy()
        for (a, x), (b, y) in combinations(live.items(), 2):
            expected = chance(int(x.sum()), int(y.sum()), len(x))
            shared = int(np.sum(x & y))
            yield _row(subject, level, "ticket", f"seeds {a} and {b}", "inputs", shared, *expected)


def _row(
    subject: Subject,
    level: int,
    variant: str,
    pair: str,
    layer: str,
    shared: int,
    mean: float,
    variance: float,
) -> dict[str, Any]:
    return {
        "level": level,
        "density": subject.density(level),
        "variant": variant,
        "pair": pair,
        "layer": layer,
        "shared": shared,
        "chance": mean,
        "chance_sd": math.sqrt(variance),
        "ratio": shared / mean if mean else math.nan,
    }


def _line(subject: Subject, variant: str, part: pd.DataFrame, label: str) -> Series:
    ratios = part.groupby("level")["ratio"]
    density = part.groupby("level")["density"].mean()
    return Series(
        label=label,
        x=list(density),
        y=list(ratios.mean()),
        low=list(ratios.min()),
        high=list(ratios.max()),
        colour=subject.colour(variant),
        hover=[
            f"<b>{label}</b>, level {level}<br>{part['ratio'].mean():.3f} times chance<br>"
            f"{part['shared'].mean():,.0f} shared, {part['chance'].mean():,.0f} by chance"
            for level, part in part.groupby("level")
        ],
    )


def _panel(title: str, lines: list[Series], data: pd.DataFrame) -> Panel:
    rows = data[data["layer"].isin([ALL, "inputs"])]
    spread = (1.96 * rows["chance_sd"] / rows["chance"]).groupby(rows["level"]).mean()
    x = list(rows.groupby("level")["density"].mean())
    known = Series(
        label="chance",
        x=x,
        y=[1.0] * len(x),
        low=list((1 - spread).clip(lower=0)),
        high=list(1 + spread),
        colour=NEUTRAL,
        kind="rule",
        dash=True,
    )
    return Panel(
        title=title,
        x="density (weights kept)",
        y="overlap, times chance",
        series=[known, *lines],
        x_axis="density",
    )
