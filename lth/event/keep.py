"""Keeps the network's state at chosen steps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lth.protocol import Moment, Record
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Copies of the state at ``at`` (absolute updates), with optimizer slots if asked for.

    The state of early stop is Evaluate's to keep.
    """

    at: frozenset[int] = frozenset()
    optimizer: bool = False

    def steps(self, training: Training) -> Iterable[int]:
        return self.at

    def __call__(self, moment: Moment, record: Record) -> None:
        record.states[str(moment.step)] = moment.state(optimizer=self.optimizer)
