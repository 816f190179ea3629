"""Early-stop step against density: the speed of learning."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent

ORDER = 3
TITLE = "Early-stop step against density"
APART = 1.025
"""Variants of one density stand side by side: the factor from one to the next."""


def draw(subject: Subject) -> Figure | None:
    """Medians as lines, every training as a point, censored ones open."""
    table, data = subject.proof.early_stop, subject.proof.trainings
    if table["median"].isna().all():
        return None
    density = subject.densities
    series: list[Series] = []
    for place, variant in enumerate([*subject.variants[1:], "ticket"]):
        part = table[(table["variant"] == variant) & table["median"].notna()].sort_values("level")
        own = data[(data["variant"] == variant) & data["early_stop_step"].notna()]
        if part.empty:
            continue
        colour = subject.colour(variant)
        aside = APART ** (place - (len(subject.variants) - 1) / 2)
        censored = own["early_stop_censored"].fillna(False).astype(bool)
        series.append(
            Series(
                label=variant,
                x=[density[i] * aside for i in own["level"]],
                y=list(own["early_stop_step"].astype(float)),
                colour=colour,
                kind="points",
                hollow=list(censored),
                hover=[
                    f"{variant}, level {r.level}, seed {r.seed}<br>step {r.early_stop_step:,.0f}"
                    f"{' or later (censored)' if late else ''}"
                    for r, late in zip(own.itertuples(), censored, strict=True)
                ],
                key=False,
            )
        )
        series.append(
            Series(
                label=variant,
                x=[density[i] * aside for i in part["level"]],
                y=list(part["median"]),
                colour=colour,
                hover=[_hover(row) for row in part.itertuples()],
            )
        )
    censored_all, of = int(table["censored"].sum()), int(table["trainings"].sum())
    return Figure(
        name="early_stop",
        title=TITLE,
        caption="The step of the lowest validation loss; lower learns faster. Lines are medians, "
        f"points single trainings. Open points ({censored_all} of {of}) are censored: the loss "
        "was lowest at the last evaluation, so the true step may be later. Variants are drawn "
        "side by side; their densities are equal.",
        panels=[
            Panel(
                x="density (weights kept)",
                y="early-stop step, updates",
                series=series,
                x_axis="density",
                from_zero=True,
            )
        ],
        data=table,
    )


def _hover(row: Any) -> str:
    text = (
        f"<b>{row.variant}</b>, level {row.level}, density {percent(row.density)}<br>"
        f"median {row.median:,.0f}, {row.censored} of {row.trainings} censored"
    )
    if pd.notna(row.ratio_to_dense) and row.level:
        text += f"<br>{'at least ' * row.ratio_bound}{row.ratio_to_dense:.2f} times dense's"
        if pd.notna(row.ratio_low) and pd.notna(row.ratio_high):
            text += f" [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"
    return text
