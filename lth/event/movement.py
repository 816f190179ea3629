"""Accumulates how the loss pushes each weight away from zero, or toward it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from lth.event.evaluate import EARLY_STOP
from lth.protocol import Moment, Record
from lth.training import Training
from lth.types import TrainState


@dataclass(frozen=True, kw_only=True)
class Movement:
    """Keeps ``-sum of w g`` over a training's updates up to ``at`` (Sanh et al. 2020).

    w are the weights that an update starts from and g the gradient of its batch
    and module noise, before clipping and decay. ``at``: ``end``, ``early_stop``
    or a step. The sums are the weights of a kept state, ``name``. One more forward
    and backward pass an update; changes nothing: a run with this event is
    bit-equal to one without.
    """

    at: str | int = "end"

    @property
    def name(self) -> str:
        """``movement``, ``movement_early_stop``, ``movement_500``."""
        return "movement" if self.at == "end" else f"movement_{self.at}"

    def steps(self, training: Training) -> Iterable[int]:
        return range(training.first_step, training.last_step + 1)

    def __call__(self, moment: Moment, record: Record) -> None:
        # After Evaluate, which says so where this step is the best so far.
        last = moment.training.last_step
        due = {"end": last, EARLY_STOP: record.early_stop_step}.get(str(self.at), self.at)
        if moment.step == due:
            self._keep(moment, record)
        if moment.step < last:
            self._add(moment, record)

    def close(self, moment: Moment, record: Record) -> None:
        """The training was stopped here, so this is its end."""
        if self.at == "end":
            self._keep(moment, record)

    def _add(self, moment: Moment, record: Record) -> None:
        weights, gradient = dict(moment.module().named_parameters()), moment.gradient()
        for name in moment.training.mask:
            push = -weights[name].detach() * gradient[name]
            before = record.memory.get(f"{self.name}/{name}")
            # Laid out as on the CPU, whatever layout the weights have.
            push = push.contiguous()
            record.memory[f"{self.name}/{name}"] = (
                push if before is None else before.to(push.device) + push
            )

    def _keep(self, moment: Moment, record: Record) -> None:
        none = {n: torch.zeros(m.shape) for n, m in moment.training.mask.items()}
        sums = {n: record.memory.get(f"{self.name}/{n}", z).cpu() for n, z in none.items()}
        record.states[self.name] = TrainState(step=moment.step, weights=sums, buffers={})
