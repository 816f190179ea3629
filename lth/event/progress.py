"""Tells somebody how far a training is, at every evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lth.protocol import Moment, Record
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Calls ``show(training, step, loss)`` after Evaluate; the loss is on validation."""

    show: Callable[[Training, int, float], None]

    def steps(self, training: Training) -> Iterable[int]:
        return training.grid()

    def __call__(self, moment: Moment, record: Record) -> None:
        self.show(moment.training, moment.step, record.metrics[-1]["val_loss"])
