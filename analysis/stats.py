"""Means and intervals over seeds: paired t, simultaneous bands, the three-way rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

LEVEL = 0.95
"""The confidence level of every interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its t interval; ``low`` and ``high`` are NaN where n < 2."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float], *, among: int = 1) -> Estimate:
    """``mean +- t(1 - 0.025 / among, n - 1) s / sqrt(n)``, s with n - 1 in the denominator.

    With ``among`` intervals made this way (Bonferroni), all of them cover
    together with at least the nominal probability, however they depend.
    """
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return Estimate(float(x.mean()) if n else math.nan, math.nan, math.nan, n)
    from scipy.special import stdtrit

    tail = (1 - LEVEL) / (2 * among)
    half = float(stdtrit(n - 1, 1 - tail) * x.std(ddof=1) / math.sqrt(n))
    mean = float(x.mean())
    return Estimate(mean, mean - half, mean + half, n)


BCA_FROM = 20
"""Below so many seeds the bootstrap covers too little to be shown (docs/statistics.md)."""


def bca(values: Sequence[float]) -> tuple[float, float]:
    """The BCa bootstrap interval of a mean; NaN below ``BCA_FROM`` values or without spread."""
    x = np.asarray(values, dtype=float)
    if len(x) < BCA_FROM or x.std() == 0:
        return math.nan, math.nan
    from scipy.stats import bootstrap

    result = bootstrap(
        (x,), np.mean, confidence_level=LEVEL, method="BCa", rng=np.random.default_rng(0)
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def three_way(difference: Estimate, epsilon: float) -> str:
    """``yes`` where the lower bound is at least -epsilon, ``no`` where the upper one is below it.

    Else ``undecided``, and so with fewer than two seeds.
    """
    if difference.low >= -epsilon:
        return "yes"
    return "no" if difference.high < -epsilon else "undecided"


def endpoint_values(
    frame: pd.DataFrame, endpoint: str, split: str = "test", *, diverged: bool = True
) -> pd.Series:
    """Accuracy at ``early_stop`` or ``final``; a diverged training enters at chance, or as NaN."""
    values = frame[f"{endpoint}_{split}_accuracy"].astype(float)
    instead = 1.0 / frame["num_classes"] if diverged else math.nan
    return values.where(frame["status"] != "diverged", instead)


def by_seed(
    frame: pd.DataFrame, endpoint: str, split: str = "test", *, diverged: bool = True
) -> pd.DataFrame:
    """Accuracy by (level, seed) and variant; draws are averaged within their seed first."""
    values = endpoint_values(frame, endpoint, split, diverged=diverged)
    table = frame.assign(value=values)
    return table.pivot_table(index=["level", "seed"], columns="variant", values="value")


def paired_difference(
    frame: pd.DataFrame,
    endpoint: str,
    against: str,
    split: str = "test",
    *,
    diverged: bool = True,
) -> pd.Series:
    """Ticket minus control by (level, seed), where both exist."""
    table = by_seed(frame, endpoint, split, diverged=diverged)
    if against not in table or "ticket" not in table:
        return pd.Series(dtype=float)
    return (table["ticket"] - table[against]).dropna()


def minus_dense(frame: pd.DataFrame, endpoint: str, split: str = "test") -> pd.Series:
    """Ticket minus dense (level 0) of the same seed, by (level, seed)."""
    values = by_seed(frame, endpoint, split)["ticket"].dropna()
    dense = values[values.index.get_level_values("level") == 0].droplevel("level")
    tickets = values[values.index.get_level_values("level") > 0]
    seeds = tickets.index.get_level_values("seed")
    return (tickets - dense.reindex(seeds).to_numpy()).dropna()


def densities(frame: pd.DataFrame) -> pd.Series:
    """The mean density of the tickets of each level.

    Where all that should have found tickets diverged, that of what the level has.
    """
    tickets = frame[frame["variant"] == "ticket"].groupby("level")["density"].mean()
    return tickets.combine_first(frame.groupby("level")["density"].mean())


def at_level(series: pd.Series, level: int) -> list[float]:
    """The values of one level, by seed."""
    if series.empty or level not in series.index.get_level_values("level"):
        return []
    return [float(v) for v in series.xs(level, level="level")]
