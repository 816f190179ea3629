"""The two values that carry everything: a ticket and a Training (see docs/architecture.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
"""Float tensors in parameter shape, one for every parameter."""

Mask: TypeAlias = Mapping[str, Tensor]
"""Bool tensors in parameter shape, masked names only; True = kept."""

Scores: TypeAlias = Mapping[str, Tensor]
"""Floating tensors with the names and shapes of a Mask; higher = keep."""

Metrics: TypeAlias = list[dict[str, float]]
"""One row per evaluation: step, losses and accuracies (fractions in [0, 1])."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainState:
    """A network at one optimiser step.

    ``step`` counts updates since initialisation. ``buffers`` are the module's
    (BatchNorm mean, variance, count). ``optimizer`` maps ``<parameter>/<slot>``
    to a tensor (``fc.weight/exp_avg``) and is None where it was not saved.
    """

    step: int
    weights: Weights
    buffers: Weights
    optimizer: Weights | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Ticket:
    """A sparse subnetwork and the values it starts from: ``(mask, start)``."""

    mask: Mask
    start: TrainState
