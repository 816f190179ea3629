"""Early-stop steps over seeds: medians, censoring, ratios to dense, steps to dense's accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.stats import estimate

Curve = Callable[[pd.Series], list[dict[str, Any]]]
"""From a row of the frame to the metrics of its Training."""


def log_ratios(frame: pd.DataFrame, level: int, variant: str) -> tuple[list[float], int]:
    """``log(step / dense step)`` by seed (draws averaged), and how many of them are bounds.

    A ratio is a lower bound where its numerator is censored, and undefined (left
    out) where dense's step is censored, absent or 0.
    """
    dense = frame[frame["level"] == 0].set_index("seed")
    part = frame[(frame["level"] == level) & (frame["variant"] == variant)]
    ratios, censored = [], 0
    for seed, draws in part.groupby("seed"):
        if seed not in dense.index:
            continue
        base = dense.loc[seed]
        steps = draws["early_stop_step"].dropna().astype(float)
        undefined = pd.isna(base["early_stop_step"]) or bool(base["early_stop_censored"])
        if undefined or base["early_stop_step"] <= 0 or steps.empty or (steps <= 0).any():
            continue
        ratios.append(float(np.log(steps / float(base["early_stop_step"])).mean()))
        censored += bool(draws["early_stop_censored"].fillna(False).astype(bool).any())
    return ratios, censored


def early_stops(frame: pd.DataFrame, endpoint: str, curve: Curve | None = None) -> pd.DataFrame:
    """One row per (level, variant): the median step and how it compares with dense's.

    ``ratio_to_dense`` is the geometric mean of paired ratios with its t
    interval on the log scale; where ``ratio_bound`` it is only a lower bound
    (``ratio_high`` is then NaN). ``reach`` is the median of the steps needed to
    reach dense's validation accuracy of the same seed at the endpoint,
    ``never`` how many did not; both need ``curve``.
    """
    rows = []
    for (level, variant), part in frame.groupby(["level", "variant"]):
        steps = part["early_stop_step"].dropna().astype(float)
        ratios, bounds = log_ratios(frame, int(level), str(variant)) if level else ([], 0)
        ratio = estimate(ratios)
        reached = _reach(frame, part, endpoint, curve) if curve is not None else []
        known = [r for r in reached if r is not None]
        rows.append(
            {
                "level": level,
                "variant": variant,
                "n": part["seed"].nunique(),
                "density": part["density"].mean(),
                "median": steps.median() if len(steps) else math.nan,
                "censored": int(part["early_stop_censored"].fillna(False).astype(bool).sum()),
                "trainings": len(part),
                "ratio_to_dense": math.exp(ratio.mean) if ratio.n else math.nan,
                "ratio_low": math.exp(ratio.low) if ratio.n > 1 else math.nan,
                "ratio_high": math.exp(ratio.high) if ratio.n > 1 and not bounds else math.nan,
                "ratio_n": ratio.n,
                "ratio_bound": bounds > 0,
                "reach": float(np.median(known)) if known else math.nan,
                "never": len(reached) - len(known),
            }
        )
    columns = ["level", "variant", "n", "density", "median", "censored", "trainings"]
    ratio_columns = ["ratio_to_dense", "ratio_low", "ratio_high", "ratio_n", "ratio_bound"]
    return pd.DataFrame(rows, columns=[*columns, *ratio_columns, "reach", "never"])


def _reach(
    frame: pd.DataFrame, part: pd.DataFrame, endpoint: str, curve: Curve
) -> list[float | None]:
    """The first evaluated step at dense's validation accuracy or above, or None."""
    dense = frame[frame["level"] == 0].set_index("seed")[f"{endpoint}_val_accuracy"]
    result: list[float | None] = []
    for _, row in part.iterrows():
        goal = dense.get(row["seed"])
        if goal is None or pd.isna(goal):
            continue
        steps = (m["step"] for m in curve(row) if m["val_accuracy"] >= goal)
        result.append(next(steps, None))
    return result
