"""A figure as data: what the HTML and the PNG of a plot are both drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from analysis.evidence import Evidence
from analysis.stats import densities
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError, Stored

COLOURS = {
    # Okabe & Ito (2008): told apart with every common kind of colour vision.
    "ticket": "#0072B2",
    "dense": "#5F6B76",
    "random_reinit": "#D55E00",
    "shuffled_mask": "#009E73",
    "random_mask": "#CC79A7",
    "sign_reinit": "#E69F00",
    "other_order": "#56B4E9",
    "same_mask": "#8C6D00",
    "sham": "#A0A4A8",
    "static": "#7A4FA3",
}
SPARE = ("#B8860B", "#A63D57", "#3B7A57", "#4B5FA6", "#8A5A44", "#6B2D5C")
"""For variants of a user's own, in the order of their names."""


NEUTRAL = "#6B7280"
"""For what is no variant: chance, no difference."""

START = "#8FBDDC"
"""The ticket's weights before their training, beside its own colour for those after it."""

RAMP = ("#3B1F66", "#5E3C99", "#8263B4", "#A68BCB", "#C3B1DF", "#D9CDEB")
"""Layers from the input to the output: one hue, so that no layer looks like a variant."""


def colour(variant: str, variants: Sequence[str]) -> str:
    """One colour per variant, the same in every figure of a report."""
    own = variant.partition("+")[0]
    if variant in COLOURS:
        return COLOURS[variant]
    if own in COLOURS and own not in variants:
        return COLOURS[own]
    others = sorted(v for v in variants if v not in COLOURS)
    return SPARE[others.index(variant) % len(SPARE)] if variant in others else SPARE[0]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One thing drawn: a line (with its band), single points, a rule, or a histogram."""

    label: str
    x: Sequence[Any]
    y: Sequence[Any]
    colour: str
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    hover: Sequence[str] | None = None
    kind: str = "line"
    """``line``, ``faint`` (no key, no hover), ``points``, ``rule`` (horizontal) or ``stairs``."""
    dash: bool = False
    hollow: Sequence[bool] | None = None
    """Which ``points`` are drawn open."""
    key: bool = True
    """Whether it is named beside the figure."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes: series, or an ``image`` of rows in percent."""

    title: str = ""
    x: str = ""
    y: str = ""
    series: Sequence[Series] = ()
    image: Sequence[Sequence[float]] | None = None
    x_axis: str = "linear"
    """``linear``, or ``density``: logarithmic, in percent, falling as pruning goes on."""
    y_axis: str = "linear"
    """``linear``; ``log``; ``share``: logarithmic, fractions shown in percent."""
    range_y: tuple[float, float] | None = None
    """The part of the y axis that is of interest, where not all of it is."""
    from_zero: bool = False
    """Whether a linear y axis shows 0."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A plot: its panels, what it says in words, and the tidy table behind it."""

    name: str
    title: str
    caption: str
    panels: Sequence[Panel]
    data: pd.DataFrame
    columns: int = 2
    """Panels beside each other, where there is room."""

    @property
    def keys(self) -> list[tuple[str, str]]:
        """(label, colour) of what is named beside the figure, each once."""
        named = {s.label: s.colour for p in self.panels for s in p.series if s.key}
        rules = {s.label for p in self.panels for s in p.series if s.kind == "rule"}
        # The ticket is drawn last, above the rest, and named first; references come at the end.
        return sorted(named.items(), key=lambda i: (i[0] != "ticket", i[0] in rules))


@dataclass(frozen=True, eq=False)
class Subject:
    """One run, to be drawn: its evidence, and its stored Trainings."""

    folder: RunFolder
    proof: Evidence
    read: dict[str, Stored] = field(default_factory=dict, repr=False)

    @property
    def endpoint(self) -> str:
        return str(self.proof.settings["endpoint"])

    @property
    def variants(self) -> list[str]:
        return self.proof.variants

    @cached_property
    def levels(self) -> list[int]:
        """All levels of the ticket."""
        data = self.proof.trainings
        return sorted({int(i) for i in data[data["variant"] == "ticket"]["level"]})

    @cached_property
    def shown(self) -> list[int]:
        """Up to four levels that stand for the ladder: dense, the sparsest, and two between."""
        levels = self.levels
        picks = {0, (len(levels) - 1) // 3, 2 * (len(levels) - 1) // 3, len(levels) - 1}
        return [levels[i] for i in sorted(picks)]

    @cached_property
    def densities(self) -> pd.Series:
        """The mean density of every level."""
        return densities(self.proof.trainings)

    def density(self, level: int) -> float:
        """The mean density of a level; see ``stats.densities``."""
        return float(self.densities[level])

    def rows(self, level: int, variant: str = "ticket") -> list[Any]:
        """The rows of a level's trainings of a variant."""
        data = self.proof.trainings
        chosen = (data["variant"] == variant) & (data["level"] == level)
        return list(data[chosen].itertuples())

    def stored(self, training_id: str) -> Stored:
        """A Training of the run; DamagedError where it is missing."""
        if training_id not in self.read:
            store = FileStore(self.folder.store_root)
            stored = store.peek(training_id)
            if stored is None:
                raise DamagedError(store.folder(training_id).describe("done.json"), "missing")
            self.read[training_id] = stored
        return self.read[training_id]

    def colour(self, variant: str) -> str:
        return colour(variant, self.variants)


def percent(density: float) -> str:
    """A density as people write it."""
    return f"{100 * density:.3g} %"


def interval(row: Any, *, unit: str = "%", signed: bool = False) -> str:
    """A mean of fractions with its interval and n, as a hover shows it."""
    sign = "+" if signed else ""
    text = f"{100 * row.mean:{sign}.2f} {unit}"
    if row.n > 1:
        text += f", 95 % interval {100 * row.low:{sign}.2f} to {100 * row.high:{sign}.2f}"
    return f"{text}, n = {row.n}"
