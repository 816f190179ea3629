"""Early-bird tickets: masks drawn as soon as they stand still."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.history import History
from lth.protocol import Allocate, Allocation, Moment, Record, Stop
from lth.step import Step, positive_step
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask, TrainState


@dataclass(frozen=True, kw_only=True)
class EarlyBird:
    """You et al. (2020) for weight masks: train under the parent's mask until it is clear.

    The training ends where the magnitude mask of the level's count is nearer
    than ``threshold`` to the others of the last ``window``, in units of their
    chance distance (see ``StandsStill``); at the latest at its last step.
    Published: a window of 5, one mask an epoch, 0.1.
    """

    every: Step | str = "1ep"
    window: int = 5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", positive_step("every", self.every))
        if self.window < 2:
            raise ValueError(f"window: got {self.window}, allowed: 2 masks or more")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold: got {self.threshold}, allowed: 0 < threshold <= 1")

    @property
    def variants(self) -> Sequence[str]:
        return ("early_bird",)

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        event = StandsStill(
            keep=keep,
            every=Step.parse(self.every),
            window=self.window,
            threshold=self.threshold,
            allocation=allocation,
            layers=history.prunable(),
        )
        return ticket.replace(mask=history.mask, start=start, events=(*ticket.events, event))

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """Drawn from the weights where the training ended."""
        weights = found.state("end").weights
        return allocate({n: weights[n].abs() for n in found.mask()})

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}


@dataclass(frozen=True, kw_only=True)
class StandsStill:
    """Stop where the newest magnitude mask is near all others of the last ``window`` (You 2020).

    Every ``every`` updates the mask of ``keep`` weights is drawn by
    ``allocation`` over ``layers``. The distance of two masks is the share of
    positions in which they differ, divided by what independent masks of their
    densities differ in, 2 rho (1 - rho) for equal ones: without that,
    any two masks of a low density would seem near. Positions and densities are
    those of the parent's survivors, since no mask keeps any other: counted over
    all, independent masks of a sparse parent would be near too. ``threshold``
    bounds it.
    """

    keep: int
    every: Step
    window: int
    threshold: float
    allocation: Allocation
    layers: Mapping[str, str]

    def steps(self, training: Training) -> Iterable[int]:
        every = self.every.updates(training.task.updates_per_epoch)
        return range(training.first_step + every, training.last_step, every)

    def __call__(self, moment: Moment, record: Record) -> Stop | None:
        free = {n: moment.mask[n].cpu() for n in self.layers}
        weights = moment.state().weights
        drawn = self.allocation(
            {n: weights[n].abs() for n in free},
            free,
            layers=self.layers,
            rate=0.5,  # only the layers' proportions depend on it where a count is given
            times=1,
            keep=self.keep,
        )
        newest = torch.cat([drawn[n][free[n]] for n in self.layers])
        settled = stands_still(
            newest, moment.step, record, self.window, self.threshold, distance=distance
        )
        return Stop() if settled else None


def stands_still(
    newest: Tensor,
    step: int,
    record: Record,
    window: int,
    threshold: float,
    *,
    distance: Callable[[Tensor, Tensor], float],
) -> bool:
    """Whether a mask is nearer than ``threshold`` to all others of the last ``window``.

    Notes the farthest as a row of the probe ``early_bird`` and remembers the mask.
    """
    before = record.memory.get("early_bird", newest.new_empty(0, newest.numel()))
    distances = [distance(newest, old) for old in before]
    farthest = max(distances, default=float("nan"))
    record.probes.setdefault("early_bird", []).append(
        {"step": step, "masks": len(distances), "distance": farthest}
    )
    record.memory["early_bird"] = torch.cat([before, newest[None]])[1 - window :]
    return len(distances) == window - 1 and farthest < threshold


def distance(a: Tensor, b: Tensor) -> float:
    """Differing positions over those expected of independent masks (0 where none are)."""
    p, q = a.double().mean().item(), b.double().mean().item()
    chance = p * (1 - q) + q * (1 - p)
    return float((a != b).double().mean()) / chance if chance else 0.0
