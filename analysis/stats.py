"""Means and intervals over seeds, paired; the verdict of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def estimate(values: Sequence[float]) -> Estimate:
    """``mean +- t(0.975, n - 1) s / sqrt(n)``, s with n - 1 in the denominator."""
    x = np.asarray(values, dtype=float)
    n = len(x)
    if n < 2:
        return Estimate(float(x.mean()) if n else math.nan, math.nan, math.nan, n)
    from scipy.special import stdtrit

    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2) * x.std(ddof=1) / math.sqrt(n))
    mean = float(x.mean())
    return Estimate(mean, mean - half, mean + half, n)


def endpoint_values(frame: pd.DataFrame, endpoint: str) -> pd.Series:
    """Test accuracy at ``early_stop`` or ``final``; a diverged training enters at chance."""
    values = frame[f"{endpoint}_test_accuracy"].astype(float)
    return values.where(frame["status"] != "diverged", 1.0 / frame["num_classes"])


def by_seed(frame: pd.DataFrame, endpoint: str) -> pd.DataFrame:
    """Accuracy by (level, seed) and variant; draws are averaged within their seed first."""
    table = frame.assign(value=endpoint_values(frame, endpoint))
    return table.pivot_table(index=["level", "seed"], columns="variant", values="value")


def paired_difference(frame: pd.DataFrame, endpoint: str, against: str) -> pd.Series:
    """Ticket minus control by (level, seed), where both exist."""
    table = by_seed(frame, endpoint)
    if against not in table:
        return pd.Series(dtype=float)
    return (table["ticket"] - table[against]).dropna()


def verdict(frame: pd.DataFrame, config: dict[str, Any]) -> str:
    """One sentence: the endpoint that the config fixed, its number, n and interval.

    The endpoint is the per-seed mean of ticket minus control over the levels
    whose density lies in ``verdict_density``. Where the interval covers 0 the
    run cannot tell.
    """
    against, endpoint = config["verdict_against"], config["endpoint"]
    low, high = config["verdict_density"]
    densities = frame[frame["variant"] == "ticket"].groupby("level")["density"].mean()
    levels = [int(i) for i, d in densities.items() if low <= d <= high]
    difference = paired_difference(frame[frame["level"].isin(levels)], endpoint, against)
    place = f"density {100 * low:g} to {100 * high:g} %"
    if difference.empty:
        return f"No verdict: no level with {place} has both a ticket and {against}."
    seeds = difference.unstack("level")
    # Controls may have been trained at some of these levels only.
    levels = [int(level) for level in seeds.columns]
    complete = seeds.dropna()
    missing = len(seeds) - len(complete)
    result = estimate(list(complete.mean(axis=1)))
    where = (
        f"at {_endpoint(endpoint)}, averaged over the levels with {place} "
        f"(level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))})"
    )
    note = _notes(frame[frame["level"].isin(levels)], missing)
    if result.n == 0:
        return f"No verdict: no seed has all of these levels {where}.{note}"
    points = 100 * result.mean
    better = "more" if points >= 0 else "less"
    text = (
        f"{where[0].upper()}{where[1:]}, the ticket is {abs(points):.2f} points {better} accurate "
        f"than {against}"
    )
    if result.n < 2:
        return f"{text} with one seed: there is no interval, so this run cannot tell.{note}"
    interval = f"95 % interval {100 * result.low:+.2f} to {100 * result.high:+.2f}"
    end = f"({interval}, n = {result.n} seeds)"
    if result.low > 0:
        return f"{text} {end}: the ticket wins.{note}"
    if result.high < 0:
        return f"{text} {end}: {against} wins.{note}"
    return f"{text} {end}: the interval covers 0, so this run cannot tell.{note}"


def _endpoint(endpoint: str) -> str:
    return {"early_stop": "early stop", "final": "the end of training"}[endpoint]


def _notes(frame: pd.DataFrame, missing: int) -> str:
    diverged = int((frame["status"] == "diverged").sum())
    text = ""
    if diverged:
        text += f" {diverged} of {len(frame)} trainings diverged and enter at chance."
    if missing:
        text += f" Seeds left out because they lack some of these levels: {missing}."
    pairs = frame.groupby(["level", "seed"])["numerics"].nunique()
    mixed = int((pairs > 1).sum())
    if mixed:
        text += f" In {mixed} of {len(pairs)} pairs the sides differ in numerics ({_odd(frame)})."
    return text


def _odd(frame: pd.DataFrame) -> str:
    """The names of the numerics that are not the same everywhere."""
    known = [json.loads(n) for n in frame["numerics"].unique()]
    names = sorted({name for numerics in known for name in numerics})
    return ", ".join(n for n in names if len({str(k.get(n)) for k in known}) > 1)
