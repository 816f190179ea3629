"""Keeps the network's state at chosen steps and at early stop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lth.protocol import Moment, Record
from lth.training import Training

EARLY_STOP = "early_stop"


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Copies of the state at ``at`` (absolute updates), with optimizer slots if asked for.

    ``early_stop`` keeps the state of the lowest validation loss so far, so at
    the end that of early stop. Runs after Evaluate.
    """

    at: frozenset[int] = frozenset()
    early_stop: bool = False
    optimizer: bool = False

    def steps(self, training: Training) -> Iterable[int]:
        return {*self.at, *(training.grid() if self.early_stop else ())}

    def __call__(self, moment: Moment, record: Record) -> None:
        if moment.step in self.at:
            record.states[str(moment.step)] = moment.state(optimizer=self.optimizer)
        if self.early_stop and record.early_stop_step == moment.step:
            record.states[EARLY_STOP] = moment.state()
