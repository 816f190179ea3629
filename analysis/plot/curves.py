"""Learning curves at densities that stand for the ladder."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent
from analysis.stats import estimate

ORDER = 4
TITLE = "Learning curves"


def draw(subject: Subject) -> Figure | None:
    """Validation accuracy while training, means over seeds with 95 % intervals."""
    rows = [
        {
            "level": level,
            "variant": variant,
            "seed": r.seed,
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
    panels = []
    for level, at_level in data.groupby("level"):
        name = (
            f"dense, {percent(subject.density(0))}"
            if level == 0
            else (f"level {level}, {percent(subject.density(int(level)))}")
        )
        series = [
            _series(subject, variant, at_level[at_level["variant"] == variant])
            for variant in subject.variants
            if (at_level["variant"] == variant).any()
        ]
        ends = [y for s in series for y in s.y[len(s.y) // 2 :]]
        margin = max(2.0, max(ends) - min(ends))
        panels.append(
            Panel(
                title=name,
                x="step (updates)",
                y="validation accuracy, %",
                series=series,
                # The first steps start at chance and would flatten all the rest.
                range_y=(max(0.0, min(ends) - margin), min(100.0, max(ends) + margin / 2)),
            )
        )
    return Figure(
        name="curves",
        title=TITLE,
        caption="Validation accuracy during training at some densities: means over seeds, bands "
        "95 % t intervals.",
        panels=panels,
        data=data,
    )


def _series(subject: Subject, variant: str, part: pd.DataFrame) -> Series:
    by_step = part.groupby(["step", "seed"])["val_accuracy"].mean().groupby("step")
    means = {s: estimate(list(100 * v)) for s, v in by_step}
    banded = all(e.n > 1 for e in means.values())
    return Series(
        label=variant,
        x=list(means),
        y=[e.mean for e in means.values()],
        low=[e.low for e in means.values()] if banded else None,
        high=[e.high for e in means.values()] if banded else None,
        colour=subject.colour(variant),
        hover=[f"{variant}, step {s:.0f}<br>{e.mean:.2f} %, n = {e.n}" for s, e in means.items()],
    )
