"""Matching and winning tickets: what the definitions say, with their intervals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from analysis.early_stop import log_ratios
from analysis.stats import Estimate, at_level, by_seed, estimate, minus_dense, three_way

STATES = {"yes": "matching", "no": "not matching", "undecided": "undecided"}


def tolerances(frame: pd.DataFrame, endpoint: str) -> dict[str, float]:
    """The named tolerances: one SD of the dense seeds (with its n), 0.2 points, none."""
    dense = at_level(by_seed(frame, endpoint)["ticket"], 0)
    known: dict[str, float] = {}
    if len(dense) > 1:
        known[f"1 SD of {len(dense)} dense seeds"] = float(np.std(dense, ddof=1))
    return {**known, "0.2 points": 0.002, "0": 0.0}


def matching(frame: pd.DataFrame, endpoint: str, *, rewound: bool) -> pd.DataFrame:
    """One row per level and tolerance: ticket minus dense, and what that makes of it.

    ``state`` is *matching* where the lower bound of the difference is at least
    -epsilon, *not matching* where the upper one is below it, else *undecided*;
    ``selected`` is the same read on validation, which is what levels are chosen
    by. ``winning``: early stop no later and accuracy no lower than dense, by the
    same rule; *undetermined* where an early stop is censored (a ticket's or
    dense's), *not defined* where tickets do not start from theta_0 or theta_k
    (``rewound`` is false).
    """
    test, validation = (minus_dense(frame, endpoint, s) for s in ("test", "val"))
    density = frame[frame["variant"] == "ticket"].groupby("level")["density"].mean()
    rows: list[dict[str, Any]] = []
    for level in sorted(set(test.index.get_level_values("level"))) if len(test) else ():
        difference = estimate(at_level(test, level))
        chosen = estimate(at_level(validation, level))
        ratio, _ = log_ratios(frame, level, "ticket")
        censored = _censored(frame, level)
        for name, epsilon in tolerances(frame, endpoint).items():
            accurate = three_way(difference, epsilon)
            rows.append(
                {
                    "level": level,
                    "density": density[level],
                    "tolerance": name,
                    "epsilon": epsilon,
                    **_numbers(difference),
                    "state": STATES[accurate],
                    "selected": STATES[three_way(chosen, epsilon)],
                    "validation_mean": chosen.mean,
                    "winning": _winning(accurate, ratio, censored) if rewound else "not defined",
                }
            )
    columns = ["level", "density", "tolerance", "epsilon", "mean", "low", "high", "n", "state"]
    return pd.DataFrame(rows, columns=[*columns, "selected", "validation_mean", "winning"])


def _numbers(value: Estimate) -> dict[str, float]:
    return {"mean": value.mean, "low": value.low, "high": value.high, "n": value.n}


def _censored(frame: pd.DataFrame, level: int) -> bool:
    """Whether the early stop of a ticket or of its seed's dense network is only a bound."""
    tickets = frame[frame["variant"] == "ticket"]
    seeds = tickets[tickets["level"] == level]["seed"]
    pairs = tickets[tickets["level"].isin([0, level]) & tickets["seed"].isin(seeds)]
    return bool(pairs["early_stop_censored"].fillna(False).astype(bool).any())


def _winning(accurate: str, ratios: list[float], censored: bool) -> str:
    if censored or not ratios:
        return "undetermined"
    steps = estimate(ratios)
    # No later: the ratio's upper bound is at most 1.
    soon = three_way(Estimate(-steps.mean, -steps.high, -steps.low, steps.n), 0.0)
    if "no" in (accurate, soon):
        return "not winning"
    return "winning" if accurate == soon == "yes" else "undecided"


def matching_range(table: pd.DataFrame) -> pd.DataFrame:
    """Per tolerance, between which densities matching ends; NaN where no level qualifies.

    Levels are chosen by ``selected`` (validation). ``sparsest_before_failure``:
    the last level before the first that is not matching. ``sparsest_certain``:
    the last of the matching levels with none undecided before it, with its test
    difference. ``point_rule``: the papers' rule, the last level before the
    first whose mean lies below -epsilon; at epsilon = 0 a ticket that is truly
    equal to dense fails it at the first level half of the time.
    """
    rows = []
    for (name, epsilon), part in table.groupby(["tolerance", "epsilon"], sort=False):
        part = part.sort_values("level")
        states, means = list(part["selected"]), list(part["validation_mean"])
        certain = _before(part, [s != "matching" for s in states])
        rows.append(
            {
                "tolerance": name,
                "epsilon": epsilon,
                "sparsest_before_failure": _density(
                    _before(part, [s == "not matching" for s in states])
                ),
                "sparsest_certain": _density(certain),
                "certain_test_difference": math.nan if certain is None else certain["mean"],
                "point_rule": _density(_before(part, [m < -epsilon for m in means])),
            }
        )
    columns = ["tolerance", "epsilon", "sparsest_before_failure", "sparsest_certain"]
    return pd.DataFrame(rows, columns=[*columns, "certain_test_difference", "point_rule"])


def _before(part: pd.DataFrame, failing: list[bool]) -> Any:
    first = failing.index(True) if True in failing else len(failing)
    return part.iloc[first - 1] if first else None


def _density(row: Any) -> float:
    return math.nan if row is None else float(row["density"])


def best_level(frame: pd.DataFrame, endpoint: str) -> dict[str, Any] | None:
    """The ticket level of the highest mean validation accuracy, and its test accuracy."""
    validation, test = (by_seed(frame, endpoint, s)["ticket"].dropna() for s in ("val", "test"))
    levels = sorted({int(i) for i in validation.index.get_level_values("level")} - {0})
    if not levels:
        return None
    # Ties go to the denser level.
    level = max(levels, key=lambda i: (float(np.mean(at_level(validation, i))), -i))
    density = frame[(frame["variant"] == "ticket") & (frame["level"] == level)]["density"].mean()
    return {
        "level": level,
        "density": float(density),
        **_numbers(estimate(at_level(test, level))),
    }
