"""Where the surviving input weights are."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.figure import Figure, Panel, Subject, percent

ORDER = 6
TITLE = "Surviving input weights"


def draw(subject: Subject) -> Figure | None:
    """The share of first-layer weights kept at each pixel, or at each place of a kernel."""
    info = subject.folder.info() or {"invocations": [{}]}
    shape = (info["invocations"][-1].get("network") or {}).get("input_shape")
    panels, rows, kernel = [], [], False
    for level in [i for i in subject.shown if i]:
        masks = [
            next(iter(subject.stored(r.training).weight_mask().values()))
            for r in subject.rows(level)
        ]
        images = [place(m.numpy(), shape) for m in masks]
        known = [i for i in images if i is not None]
        if not known or known[0].size < 2:
            return None
        kernel = masks[0].ndim == 4
        image = 100 * np.mean(known, 0)
        title = f"level {level}, {percent(subject.density(level))}"
        panels.append(Panel(title=title, image=image.tolist()))
        rows += [
            {"level": level, "row": i, "column": j, "share_kept": float(v) / 100}
            for (i, j), v in np.ndenumerate(image)
        ]
    if not panels:
        return None
    what = (
        "each place of the first layer's kernels"
        if kernel
        else "each pixel among the first layer's weights (mean over colour channels)"
    )
    return Figure(
        name="inputs",
        title=TITLE,
        caption=f"The share of weights that the ticket keeps at {what}, mean over seeds. Each "
        "level has its own scale, from 0: the darkest inputs are cut off or nearly so.",
        panels=panels,
        data=pd.DataFrame(rows),
        columns=3,
    )


def place(mask: NDArray[np.bool_], shape: list[int] | None) -> NDArray[np.float64] | None:
    """The share kept at each place (rows, columns) of a first layer's mask.

    A linear layer (out, in) that sees an image of ``shape`` (channels, rows,
    columns) gives one share per pixel, a convolution (out, in, rows, columns)
    one per place of its kernel; None for any other.
    """
    if mask.ndim == 4:
        return np.asarray(mask.mean((0, 1)), float)
    if shape is None or mask.ndim != 2 or len(shape) != 3 or mask.shape[1] != math.prod(shape):
        return None
    return np.asarray(mask.mean(0).reshape(shape).mean(0), float)
