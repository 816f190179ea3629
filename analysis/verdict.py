"""The verdict of a run, in plain words with its numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.stats import Estimate, estimate, paired_difference


@dataclass(frozen=True)
class Gap:
    """Ticket minus control as the verdict reads it, over ``levels``."""

    result: Estimate
    levels: list[int]
    missing: int
    """Seeds that lack some of the levels: of a diverged ticket, say, or not trained yet."""

    def winner(self, against: str) -> str:
        """Who is better, or that the run cannot tell."""
        if self.result.n > 1 and self.result.low > 0:
            return "the ticket wins"
        if self.result.n > 1 and self.result.high < 0:
            return f"{against} wins"
        return "cannot tell"


def gap(frame: pd.DataFrame, config: dict[str, Any]) -> Gap | None:
    """The per-seed mean of ticket minus ``verdict_against`` over the verdict's levels.

    These are the levels whose density lies in ``verdict_density``; None where
    none of them has both.
    """
    low, high = config["verdict_density"]
    densities = frame[frame["variant"] == "ticket"].groupby("level")["density"].mean()
    levels = [int(i) for i, d in densities.items() if low <= d <= high]
    rows = frame[frame["level"].isin(levels)]
    difference = paired_difference(rows, config["endpoint"], config["verdict_against"])
    if difference.empty:
        return None
    # Controls may have been trained at some of these levels only.
    seeds = difference.unstack("level")
    complete = seeds.dropna()
    return Gap(
        estimate(list(complete.mean(axis=1))),
        [int(level) for level in seeds.columns],
        frame["seed"].nunique() - len(complete),
    )


def verdict(frame: pd.DataFrame, config: dict[str, Any]) -> str:
    """One sentence: the endpoint that the config fixed, its number, n and interval.

    Where the interval covers 0 the run cannot tell.
    """
    against, (low, high) = config["verdict_against"], config["verdict_density"]
    place = f"density {100 * low:g} to {100 * high:g} %"
    found = gap(frame, config)
    if found is None:
        return f"No verdict: no level with {place} has both a ticket and {against}."
    result, levels = found.result, found.levels
    where = (
        f"at {_endpoint(config['endpoint'])}, averaged over the levels with {place} "
        f"(level{'s' if len(levels) > 1 else ''} {', '.join(map(str, levels))})"
    )
    sides = frame["level"].isin(levels) & frame["variant"].isin(["ticket", against])
    note = _notes(frame[sides], found.missing)
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
    winner = found.winner(against)
    if winner == "cannot tell":
        return f"{text} {end}: the interval covers 0, so this run cannot tell.{note}"
    return f"{text} {end}: {winner}.{note}"


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
