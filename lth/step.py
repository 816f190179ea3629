"""Moments of a training, written ``500it``, ``3ep`` or ``1ep30it`` and counted in updates."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

_PATTERN = re.compile(r"(?:(\d+)ep)?(?:(\d+)it)?")


@dataclass(frozen=True)
class Step:
    """``epochs`` passes over the train split and ``iterations`` updates.

    An epoch is ``floor(n / batch_size)`` updates (``updates_per_epoch``).
    """

    epochs: int = 0
    iterations: int = 0

    @staticmethod
    def parse(text: str | int | Step) -> Step:
        """Read ``500it``, ``3ep``, ``1ep30it``; a bare 0 is the start.

        Raises ValueError for anything else: a bare number has no unit.
        """
        if isinstance(text, Step):
            return text
        if isinstance(text, int) and not isinstance(text, bool) and text == 0:
            return Step()
        match = _PATTERN.fullmatch(str(text).strip())
        if match is None or not match.group(0):
            raise ValueError(f"got {text!r}, allowed: a step such as 500it, 3ep or 1ep30it")
        epochs, iterations = (int(group) if group else 0 for group in match.groups())
        return Step(epochs, iterations)

    def updates(self, updates_per_epoch: int) -> int:
        """The number of optimiser updates up to this step."""
        return self.epochs * updates_per_epoch + self.iterations

    def __str__(self) -> str:
        epochs = f"{self.epochs}ep" if self.epochs else ""
        iterations = f"{self.iterations}it" if self.iterations or not self.epochs else ""
        return epochs + iterations


def positive_step(name: str, value: Step | str) -> Step:
    """The step that an option means; ValueError, naming the option, for none or no update."""
    try:
        step = Step.parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if step == Step():
        raise ValueError(f"{name}: got {value!r}, allowed: a step of at least 1it")
    return step


def resolve(component: Any, updates_per_epoch: int) -> Any:
    """``component`` (a frozen dataclass) with every Step field counted in updates."""

    def count(value: Any) -> Any:
        if isinstance(value, Step):
            return Step(iterations=value.updates(updates_per_epoch))
        if isinstance(value, list | tuple):
            return type(value)(count(v) for v in value)
        return value

    if not dataclasses.is_dataclass(component) or isinstance(component, type):
        return component
    given = [f.name for f in dataclasses.fields(component) if f.init]
    fields = {name: count(getattr(component, name)) for name in given}
    return dataclasses.replace(component, **fields)
