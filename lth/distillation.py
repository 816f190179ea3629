"""Knowledge distillation: a trained network teaches another by its softened outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from lth.spec import Json, spec, state_digest
from lth.types import TrainState

if TYPE_CHECKING:
    from lth.history import History


def check(*, temperature: float, weight: float) -> None:
    """ValueError for what the loss cannot be computed with."""
    if not temperature > 0:
        raise ValueError(f"temperature: got {temperature}, allowed: above 0")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight: got {weight}, allowed: 0 to 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Distillation:
    """Hinton, Vinyals & Dean (2015): the training loss under a ``teacher``.

    ``(1 - weight) * CE + weight * T^2 * KL(softmax(teacher / T) || softmax(student / T))``,
    means over the batch; T is ``temperature``, and T^2 keeps the gradients of
    the second term at the size of the first's. The teacher is a ``model`` of its
    own (None: the student's) and computes in eval mode on the same, augmented, batch.
    """

    teacher: TrainState
    model: Callable[..., nn.Module] | None = None
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        check(temperature=self.temperature, weight=self.weight)
        # Slots teach nothing, and must not enter the digest.
        object.__setattr__(self, "teacher", dataclasses.replace(self.teacher, optimizer=None))

    @cached_property
    def spec(self) -> Json:
        """Canonical JSON: the teacher by the digest of its contents."""
        return {
            "teacher": state_digest(self.teacher),
            **({} if self.model is None else {"model": spec(self.model)}),
            "temperature": spec(self.temperature),
            "weight": spec(self.weight),
        }

    def loss(self, hard: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss from the mean cross-entropy ``hard`` and both networks' logits (B, C)."""
        t, weight = self.temperature, self.weight
        soft = F.kl_div(
            F.log_softmax(student / t, 1),
            F.log_softmax(teacher / t, 1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - weight) * hard + weight * t * t * soft


@dataclass(frozen=True, kw_only=True, eq=False)
class Teaching:
    """Who teaches a search's sparse networks: ``teacher``, or the seed's dense network's end."""

    temperature: float
    weight: float
    teacher: TrainState | None = None

    def __call__(self, history: History, model: Callable[..., nn.Module]) -> Distillation:
        """The loss of a level; ``model`` is the dense network's, whatever the student's is."""
        return Distillation(
            teacher=history.dense_end if self.teacher is None else self.teacher,
            model=model,
            temperature=self.temperature,
            weight=self.weight,
        )
