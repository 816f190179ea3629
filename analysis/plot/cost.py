"""What it cost: updates, seconds, multiply-adds, bytes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject, percent

ORDER = 10
TITLE = "Cost"


def draw(subject: Subject) -> Figure | None:
    """Per training of a ticket, by density: updates, seconds, multiply-adds, bytes stored."""
    info = subject.folder.info() or {"invocations": [{}]}
    uses = (info["invocations"][-1].get("network") or {}).get("uses") or {}
    rows: list[dict[str, Any]] = []
    for level in subject.levels:
        for r in subject.rows(level):
            layers = subject.stored(r.training).done["layers"]
            rows.append(
                {
                    "level": level,
                    "seed": r.seed,
                    "density": r.density,
                    "seconds": r.train_seconds,
                    "train_updates": r.end_step - r.start_step,
                    "total_updates": r.search_steps + r.end_step - r.start_step,
                    "bytes": _bytes(subject, r.training),
                    "multiply_adds": sum(c["kept"] * uses.get(n, 0) for n, c in layers.items()),
                }
            )
    data = pd.DataFrame(rows)
    kinds = {
        "total_updates": ("To find and train it", "updates", 1.0),
        "seconds": ("Its training", "seconds", 1.0),
        "multiply_adds": ("A forward pass", "multiply-adds per example, thousands", 1e-3),
        "bytes": ("Its files", "kilobytes stored", 1e-3),
    }
    if not uses:
        data = data.drop(columns="multiply_adds")
        kinds.pop("multiply_adds")
    return Figure(
        name="cost",
        title=TITLE,
        caption="What one level's ticket costs: mean over seeds, band their range. Seconds include "
        "evaluation, and depend on what else the machine was doing. Multiply-adds count living "
        "weights only: what sparse hardware could save, not what was saved here. "
        + _whole(subject),
        panels=[
            Panel(
                title=title,
                x="density (weights kept)",
                y=unit,
                series=[_series(subject, data, column, unit, scale)],
                x_axis="density",
                from_zero=True,
            )
            for column, (title, unit, scale) in kinds.items()
        ],
        data=data,
    )


def _whole(subject: Subject) -> str:
    """All trainings of the run together, each once."""
    own = subject.proof.trainings.drop_duplicates("training")
    size = sum(_bytes(subject, i) for i in own["training"])
    updates = int((own["end_step"] - own["start_step"]).sum())
    return (
        f"The whole run: {len(own)} trainings, {updates:,} updates, "
        f"{own['train_seconds'].sum():,.0f} seconds of training, {size / 1e6:,.1f} MB stored."
    )


def _bytes(subject: Subject, training_id: str) -> int:
    folder = subject.folder.store_root / "training" / training_id[:2] / training_id
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())


def _series(subject: Subject, data: pd.DataFrame, column: str, unit: str, scale: float) -> Series:
    values = (scale * data[column]).groupby(data["level"])
    density = data.groupby("level")["density"].mean()
    return Series(
        label="ticket",
        x=list(density),
        y=list(values.mean()),
        low=list(values.min()),
        high=list(values.max()),
        colour=subject.colour("ticket"),
        hover=[
            f"level {i}, density {percent(density[i])}<br>{v:,.4g} {unit}"
            for i, v in values.mean().items()
        ],
    )
