"""Evaluation on the grid: validation always, test at early stop and at the end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lth.dataset.task import Split
from lth.protocol import Moment, Record, Stop
from lth.training import Training

EARLY_STOP = "early_stop"
"""The name of the state and predictions at early stop."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """One row of metrics per grid point, and per-example predictions worth keeping.

    Early stop is the argmin of validation loss on the grid, ties to the
    earliest; selection never sees the test split. The state of the lowest
    validation loss so far is held until the end, when test is evaluated for it
    and for the last state: a new minimum costs a copy instead of a pass over
    test. ``test_curve`` evaluates test everywhere. ``keep`` leaves the state of
    early stop in the record. A loss that is not finite ends the training as
    ``diverged``.
    """

    test_curve: bool = False
    keep: bool = False

    def steps(self, training: Training) -> Iterable[int]:
        return training.grid()

    def __call__(self, moment: Moment, record: Record) -> Stop | None:
        last = moment.step == moment.training.last_step
        return self._look(moment, record, moment.batch_loss(), last=last)

    def close(self, moment: Moment, record: Record) -> None:
        """The last row of a training that was stopped; in place of one at the same step."""
        seen = record.metrics and record.metrics[-1]["step"] == moment.step
        batch_loss = record.metrics.pop()["batch_loss"] if seen else moment.batch_loss()
        self._look(moment, record, batch_loss, last=True)

    def _look(
        self, moment: Moment, record: Record, batch_loss: float, *, last: bool
    ) -> Stop | None:
        task = moment.training.task
        validation = moment.evaluate(task.validation)
        row = {"step": float(moment.step), "batch_loss": batch_loss}
        row |= _summary("val", validation, task.validation)
        best = min((m["val_loss"] for m in record.metrics), default=math.inf)
        diverged = not math.isfinite(row["val_loss"]) or math.isinf(batch_loss)
        # No update lies before the first row, so its batch loss is NaN by definition.
        diverged |= math.isnan(batch_loss) and moment.step > moment.training.first_step
        record.metrics.append(row)
        if row["val_loss"] < best and not diverged:
            record.early_stop_step = moment.step
            record.states[EARLY_STOP] = moment.state()
            _remember(record, "val", EARLY_STOP, validation)
        if diverged or last:
            _remember(record, "val", "end", validation)
            row |= _summary("train", moment.evaluate(task.train), task.train)
            self._test(moment, record, row)
        elif self.test_curve:
            row |= _summary("test", moment.evaluate(task.test), task.test)
        if diverged:
            record.status = "diverged"
            return Stop()
        return None

    def _test(self, moment: Moment, record: Record, row: dict[str, float]) -> None:
        """Evaluate test for the last state and for that of early stop."""
        test = moment.training.task.test
        end = moment.evaluate(test)
        row |= _summary("test", end, test)
        _remember(record, "test", "end", end)
        if record.early_stop_step is None:
            return
        early = end
        if record.early_stop_step != moment.step:
            early = moment.evaluate(test, record.states[EARLY_STOP])
        _remember(record, "test", EARLY_STOP, early)
        at = next(m for m in record.metrics if m["step"] == record.early_stop_step)
        at |= _summary("test", early, test)
        if not self.keep:
            del record.states[EARLY_STOP]


def _summary(name: str, evaluated: tuple[Tensor, Tensor], split: Split) -> dict[str, float]:
    losses, classes = evaluated
    labels = split.labels.cpu()
    return {
        f"{name}_loss": float(losses.double().mean()),
        f"{name}_accuracy": float((classes == labels).double().mean()),
    }


def _remember(record: Record, split: str, when: str, evaluated: tuple[Tensor, Tensor]) -> None:
    losses, classes = evaluated
    record.predictions[f"{split}/{when}/loss"] = losses
    record.predictions[f"{split}/{when}/class"] = classes
