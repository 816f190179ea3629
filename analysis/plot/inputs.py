"""Where the surviving input weights are."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.figure import Figure, Panel, Subject, percent

ORDER = 6
TITLE = "Surviving input weights"


def draw(subject: Subject) -> Figure | None:
    """The share of first-layer weights kept at each input, as an image for image inputs."""
    info = subject.folder.info() or {"invocations": [{}]}
    shape = (info["invocations"][-1].get("network") or {}).get("input_shape")
    panels, rows = [], []
    for level in [i for i in subject.shown if i]:
        kept = []
        for r in subject.rows(level):
            first = next(iter(subject.stored(r.training).mask().values()))
            if shape is None or first.ndim != 2 or first.shape[1] != int(np.prod(shape)):
                return None  # a convolution sees every place alike
            kept.append(first.numpy().mean(0))
        image = np.mean(kept, 0).reshape(shape).mean(0)
        panels.append(
            Panel(
                title=f"level {level}, {percent(subject.density(level))}",
                image=image.tolist(),
                scale="share kept",
            )
        )
        rows += [
            {"level": level, "row": i, "column": j, "share_kept": float(v)}
            for (i, j), v in np.ndenumerate(image)
        ]
    if not panels:
        return None
    return Figure(
        name="inputs",
        title=TITLE,
        caption="The share of each input's first-layer weights that the ticket keeps, mean over "
        "seeds (and over colour channels). Dark inputs are cut off.",
        panels=panels,
        data=pd.DataFrame(rows),
    )
