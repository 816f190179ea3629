"""Early-stop step against density: the speed of learning."""

from __future__ import annotations

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent

ORDER = 3
TITLE = "Early-stop step against density"


def draw(subject: Subject) -> Figure | None:
    """Medians over seeds with the seeds' range; censored ones are counted in the hover."""
    table, data = subject.proof.early_stop, subject.proof.trainings
    if table["median"].isna().all():
        return None
    density = table[table["variant"] == "ticket"].set_index("level")["density"]
    series = []
    for variant in subject.variants:
        part = table[(table["variant"] == variant) & table["median"].notna()].sort_values("level")
        if part.empty:
            continue
        steps = data[data["variant"] == variant].groupby("level")["early_stop_step"]
        series.append(
            Series(
                label=variant,
                x=[density[i] for i in part["level"]],
                y=list(part["median"]),
                low=[float(steps.min()[i]) for i in part["level"]],
                high=[float(steps.max()[i]) for i in part["level"]],
                colour=subject.colour(variant),
                hover=[_hover(row) for row in part.itertuples()],
            )
        )
    censored, of = int(table["censored"].sum()), int(table["trainings"].sum())
    return Figure(
        name="early_stop",
        title=TITLE,
        caption="The step of the lowest validation loss: medians over trainings, bands from the "
        f"smallest to the largest. {censored} of {of} are censored (at the last evaluation, so "
        "the true step may be later).",
        panels=[
            Panel(
                x="density (share of weights kept)",
                y="early-stop step (updates)",
                series=series,
                log_x=True,
                falling_x=True,
            )
        ],
        data=table,
    )


def _hover(row: object) -> str:
    r = pd.Series(row._asdict())  # type: ignore[attr-defined]
    text = (
        f"{r['variant']}, level {r['level']}, density {percent(r['density'])}<br>"
        f"step {r['median']:.0f}, {r['censored']} of {r['trainings']} censored"
    )
    if pd.notna(r["ratio_to_dense"]) and r["level"]:
        text += f"<br>{'at least ' * r['ratio_bound']}{r['ratio_to_dense']:.2f} times dense's"
    return text
