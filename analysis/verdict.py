"""The verdict of a run, in plain words with its numbers."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from analysis.stats import estimate, paired_difference


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
