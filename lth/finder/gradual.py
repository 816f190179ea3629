"""Gradual pruning: one training that starts with its parent's mask and ends sparse."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lth import mask as masks
from lth.history import History
from lth.protocol import Allocate, Allocation, Change, Moment, Record
from lth.step import Step, positive_step
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask, TrainState


@dataclass(frozen=True, kw_only=True)
class Gradual:
    """Zhu & Gupta (2017): from the parent's mask to the level's count by a cubic schedule.

    It starts where the ticket would, but under the parent's mask, and prunes by
    magnitude between the shares ``begin`` and ``until`` of the updates.
    """

    every: Step | str = "100it"
    begin: float = 0.0
    until: float = 0.75

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", positive_step("every", self.every))
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin: got {self.begin}, allowed: 0 <= begin < 1 (of the training)")
        if not self.begin < self.until <= 1:
            raise ValueError(
                f"until: got {self.until}, allowed: begin ({self.begin}) < until <= 1 (of the "
                "training)"
            )

    @property
    def variants(self) -> Sequence[str]:
        return ("gradual",)

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        event = PruneGradually(
            keep=keep,
            every=Step.parse(self.every),
            begin=self.begin,
            until=self.until,
            allocation=allocation,
            layers=history.prunable(),
        )
        return ticket.replace(mask=history.mask, start=start, events=(*ticket.events, event))

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """The mask at the end."""
        return found.mask()

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}


@dataclass(frozen=True, kw_only=True)
class PruneGradually:
    """Prune by magnitude every ``every`` updates, fast at first, slower and slower.

    With t from 0 to 1 over the shares ``begin`` to ``until`` of the training,
    the sparsity is ``s_f + (s_i - s_f)(1 - t)^3``, so what is kept of
    ``layers`` (name to type) falls from n, the count it starts with, to
    ``keep`` as ``keep + (n - keep)(1 - t)^3``, rounded. ``allocation`` spends
    each count. Other layers stay as they are; masks nest.
    """

    keep: int
    every: Step
    begin: float
    until: float
    allocation: Allocation
    layers: Mapping[str, str]

    def steps(self, training: Training) -> Iterable[int]:
        """From ``begin`` on, and always at ``until``, where the last weights go."""
        every = self.every.updates(training.task.updates_per_epoch)
        first, last = (
            training.first_step + math.ceil(share * training.updates)
            for share in (self.begin, self.until)
        )
        return [*range(first + every, last, every), last]

    def target(self, training: Training, step: int) -> int:
        """How many weights of ``layers`` the pruning at ``step`` leaves."""
        done = (step - training.first_step) / training.updates
        t = min(1.0, (done - self.begin) / (self.until - self.begin))
        start = masks.remaining({n: training.mask[n] for n in self.layers})
        return round(self.keep + (start - self.keep) * (1 - t) ** 3)

    def __call__(self, moment: Moment, record: Record) -> Change:
        mask = {n: m.cpu() for n, m in moment.mask.items()}
        free = {n: mask[n] for n in self.layers}
        state = moment.state(optimizer=True)
        pruned = self.allocation(
            {n: state.weights[n].abs() for n in free},
            free,
            layers=self.layers,
            rate=0.5,  # only the layers' proportions depend on it where a count is given
            times=1,
            keep=self.target(moment.training, moment.step),
        )
        child = {**mask, **pruned}
        record.probes.setdefault("prune_gradually", []).append(
            {"step": moment.step, "density": masks.density(child)}
        )
        return Change(state=state, mask=child)
