"""What it cost: updates, seconds, multiply-adds, bytes."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.figure import Figure, Panel, Series, Subject

ORDER = 10
TITLE = "Cost"


def draw(subject: Subject) -> Figure | None:
    """Per training by density: seconds, bytes stored, forward multiply-adds, total updates."""
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
                    "total_updates": r.search_steps + r.end_step - r.start_step,
                    "bytes": _bytes(subject, r.training),
                    "multiply_adds": sum(c["kept"] * uses.get(n, 0) for n, c in layers.items()),
                }
            )
    data = pd.DataFrame(rows)
    kinds = {
        "total_updates": "updates to find and train",
        "seconds": "seconds of its training",
        "multiply_adds": "multiply-adds an example",
        "bytes": "bytes stored",
    }
    if not uses:
        kinds.pop("multiply_adds")
    return Figure(
        name="cost",
        title=TITLE,
        caption="What a level's ticket costs per seed (mean, range over seeds). Multiply-adds "
        "count living weights only: what sparse hardware could save, not what was saved here.",
        panels=[
            Panel(
                title=label,
                x="density",
                y=label,
                series=[_series(subject, data, column)],
                log_x=True,
                falling_x=True,
            )
            for column, label in kinds.items()
        ],
        data=data,
    )


def _bytes(subject: Subject, training_id: str) -> int:
    folder = subject.folder.store_root / "training" / training_id[:2] / training_id
    return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())


def _series(subject: Subject, data: pd.DataFrame, column: str) -> Series:
    values = data.groupby("level")[column]
    return Series(
        label="ticket",
        x=list(data.groupby("level")["density"].mean()),
        y=list(values.mean()),
        low=list(values.min()),
        high=list(values.max()),
        colour=subject.colour("ticket"),
        hover=[f"level {i}: {v:,.4g}" for i, v in values.mean().items()],
    )
