"""Saves an unfinished training, so that a killed process loses little."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lth.protocol import Moment, Record, Resume
from lth.step import Step
from lth.training import Training

POLL = 20
"""Updates between two looks at the clock."""


@dataclass(frozen=True)
class Interval:
    """Every so many seconds or every so many updates; ``never`` is neither."""

    seconds: float | None = None
    step: Step | None = None

    @staticmethod
    def parse(text: str) -> Interval:
        """Read ``60s``, ``500it``, ``1ep`` or ``never``."""
        if text == "never":
            return Interval()
        match = re.fullmatch(r"(\d+(?:\.\d+)?)s", text)
        try:
            interval = (
                Interval(seconds=float(match.group(1)))
                if match
                else Interval(step=Step.parse(text))
            )
        except ValueError:
            interval = Interval(step=Step())
        if interval.seconds == 0 or interval.step == Step():
            raise ValueError(f"got {text!r}, allowed: 60s, 500it, 1ep or never")
        return interval


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Calls ``save`` every ``interval``; comes last of all events at a step."""

    interval: Interval
    save: Callable[[Training, Resume], None]
    _last: list[float] = field(default_factory=lambda: [time.monotonic()])

    def steps(self, training: Training) -> Iterable[int]:
        every = POLL
        if self.interval.step is not None:
            every = self.interval.step.updates(training.task.updates_per_epoch)
        elif self.interval.seconds is None:
            return ()
        return range(training.first_step + every, training.last_step, every)

    def __call__(self, moment: Moment, record: Record) -> None:
        if time.monotonic() - self._last[0] < (self.interval.seconds or 0.0):
            return
        self.save(
            moment.training,
            Resume(
                state=moment.state(optimizer=True),
                mask=moment.mask,
                record=record,
                pending_loss=moment.pending_loss(),
            ),
        )
        self._last[0] = time.monotonic()
