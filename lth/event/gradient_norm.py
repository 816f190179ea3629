"""Probe: the gradient's norm in every prunable layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lth.protocol import Moment, Record
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class GradientNorm:
    """L2 norm per layer of the next batch's gradient, survivors and pruned weights apart.

    Rows ``step layer survivors pruned`` on the evaluation grid. The gradient of
    pruned weights is what growing methods read. Changes nothing: a run with
    this probe is bit-equal to one without.
    """

    def steps(self, training: Training) -> Iterable[int]:
        return training.grid()

    def __call__(self, moment: Moment, record: Record) -> None:
        rows = record.probes.setdefault("gradient_norm", [])
        gradient = moment.gradient()
        for name, mask in moment.mask.items():
            alive = mask.to(gradient[name].device)
            rows.append(
                {
                    "step": moment.step,
                    "layer": name,
                    "survivors": float(gradient[name][alive].norm()),
                    "pruned": float(gradient[name][~alive].norm()),
                }
            )
