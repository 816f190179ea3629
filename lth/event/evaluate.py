"""Evaluation on the grid: validation always, test where validation loss is at a new minimum."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from lth.dataset.task import Split
from lth.protocol import Moment, Record, Stop
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """One row of metrics per grid point, and per-example predictions worth keeping.

    Early stop is the argmin of validation loss on the grid, ties to the
    earliest; selection never sees the test split. Test is evaluated where
    validation loss reaches a new minimum, at the end, and with ``test_curve``
    everywhere. A loss that is not finite ends the training as ``diverged``.
    """

    test_curve: bool = False

    def steps(self, training: Training) -> Iterable[int]:
        return training.grid()

    def __call__(self, moment: Moment, record: Record) -> Stop | None:
        task = moment.training.task
        batch_loss = moment.batch_loss()
        validation = moment.evaluate(task.validation)
        row = {"step": float(moment.step), "batch_loss": batch_loss}
        row |= _summary("val", validation, task.validation)
        best = min((m["val_loss"] for m in record.metrics), default=math.inf)
        diverged = not math.isfinite(row["val_loss"]) or math.isinf(batch_loss)
        # No update lies before the first row, so its batch loss is NaN by definition.
        diverged |= math.isnan(batch_loss) and moment.step > moment.training.first_step
        minimum = row["val_loss"] < best and not diverged
        last = diverged or moment.step == moment.training.last_step
        if minimum or last or self.test_curve:
            test = moment.evaluate(task.test)
            row |= _summary("test", test, task.test)
            if minimum:
                record.early_stop_step = moment.step
            for when in ["early_stop"] * minimum + ["end"] * last:
                _remember(record, "val", when, validation)
                _remember(record, "test", when, test)
        if last:
            row |= _summary("train", moment.evaluate(task.train), task.train)
        record.metrics.append(row)
        if diverged:
            record.status = "diverged"
            return Stop()
        return None


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
