"""Learning curves at densities that stand for the ladder."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent
from analysis.stats import estimate

ORDER = 4
TITLE = "Learning curves"


def draw(subject: Subject) -> Figure | None:
    """Validation error while training, means over seeds with 95 % intervals."""
    rows = [
        {
            "level": level,
            "variant": variant,
            "seed": r.seed,
            "draw": r.draw,
            "step": m["step"],
            "val_accuracy": m["val_accuracy"],
            "val_loss": m["val_loss"],
        }
        for level in subject.shown
        for variant in subject.variants
        for r in subject.rows(level, variant)
        for m in subject.stored(r.training).metrics()
    ]
    data = pd.DataFrame(rows)
    if data.empty or data["step"].nunique() < 2:
        return None
    drawn = {level: _level(subject, part) for level, part in data.groupby("level")}
    means = [v for series in drawn.values() for s in series for v in s.y if v > 0]
    # One scale for all panels, so that they can be compared.
    ends = (0.75 * min(means), min(100.0, 1.1 * max(means))) if means else (0.1, 100.0)
    return Figure(
        name="curves",
        title=TITLE,
        caption="Validation error during training, on one logarithmic scale: means over seeds, "
        "bands their 95 % t intervals.",
        panels=[
            Panel(
                title=_title(subject, int(level)),
                x="step (updates)",
                y="validation error, %",
                series=series,
                y_axis="log",
                range_y=ends,
            )
            for level, series in drawn.items()
        ],
        data=data,
    )


def _title(subject: Subject, level: int) -> str:
    return f"level {level}, {percent(subject.density(level))}" if level else "dense"


def _level(subject: Subject, data: pd.DataFrame) -> list[Series]:
    own = [v for v in [*subject.variants[1:], "ticket"] if (data["variant"] == v).any()]
    return [_series(subject, v, data[data["variant"] == v]) for v in own]


def _series(subject: Subject, variant: str, part: pd.DataFrame) -> Series:
    by_seed = part.groupby(["step", "seed"])["val_accuracy"].mean()
    errors = {s: estimate(list(100 - 100 * v)) for s, v in by_seed.groupby("step")}
    banded = all(e.n > 1 for e in errors.values())
    return Series(
        label=variant,
        x=list(errors),
        y=[e.mean for e in errors.values()],
        low=[e.low for e in errors.values()] if banded else None,
        high=[e.high for e in errors.values()] if banded else None,
        colour=subject.colour(variant),
        hover=[
            f"<b>{variant}</b>, step {s:,.0f}<br>error {e.mean:.2f} %, n = {e.n}"
            for s, e in errors.items()
        ],
    )
