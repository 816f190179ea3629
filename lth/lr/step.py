"""A learning rate that drops at milestones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from lth.step import Step


@dataclass(frozen=True, kw_only=True)
class MultiStep:
    """``gamma`` to the number of ``milestones`` that lie at or before the step.

    Milestones are steps (``20000it``, ``80ep``): the update with that absolute
    number is the first one at the lower rate. Epochs have to be counted first
    (``lth.step.resolve``, which the run does); ValueError where they are not.
    """

    milestones: Sequence[Step | str]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        try:
            parsed = tuple(Step.parse(m) for m in self.milestones)
        except ValueError as error:
            raise ValueError(f"milestones: {error}") from None
        object.__setattr__(self, "milestones", parsed)
        if not self.gamma > 0:
            raise ValueError(f"gamma: got {self.gamma}, allowed: above 0")

    def __call__(self, step: int, total: int) -> float:
        milestones = cast(Sequence[Step], self.milestones)
        if any(m.epochs for m in milestones):
            raise ValueError(
                f"milestones: got {', '.join(map(str, milestones))}, allowed: updates (lth.step."
                "resolve counts epochs)"
            )
        return float(self.gamma ** sum(step >= m.iterations for m in milestones))
