"""The engine that stacks a cohort: one model with a leading dimension, by ``torch.vmap``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from lth.engine import lockstep
from lth.engine.stack import Stack
from lth.option import at_least
from lth.protocol import Event, Result, Resume
from lth.runtime import Runtime
from lth.spec import Json, spec
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Stacked:
    """Trains ``cohort`` networks of one architecture as one stack of them.

    Each has its own mask, start, data order and augmentation. A stack always
    holds ``cohort`` networks: places that nobody fills repeat the last one, so
    that the same kernels run and a Training's numbers do not depend on who
    shares its cohort. ``compile_from`` is the number of updates of a Training
    from which forward and backward pass are compiled (None: never). Refused:
    models that draw random numbers or that ``torch.vmap`` cannot stack.
    """

    cohort: int = 8
    compile_from: int | None = None

    def __post_init__(self) -> None:
        at_least("cohort", self.cohort, 1)
        if self.compile_from is not None and self.compile_from < 1:
            raise ValueError(
                f"compile_from: got {self.compile_from}, allowed: 1 update or more, or null"
            )

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours, at most ``cohort`` of them."""
        return lockstep.batched(cohort, self.cohort)

    def compiles(self, training: Training) -> bool:
        """Whether a Training is long enough for compiling to pay."""
        return self.compile_from is not None and training.updates >= self.compile_from

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, and the precision."""
        return {
            "engine": "stacked",
            "cohort": self.cohort,
            "compile": self.compiles(training),
            "precision": training.precision,
            **runtime.numerics(),
        }

    def refusal(self, training: Training, runtime: Runtime) -> str | None:
        """Why this engine cannot train it, or None where it can."""
        if training.filled is not None:
            return "holds pruned weights at zero"
        if training.distillation is not None:
            return "knows no distillation"
        if training.norm_l1 is not None:
            return "penalises no norms"
        task = training.task
        return _unstackable(training.model, tuple(task.input_shape), task.num_classes)

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        """See ``lockstep.train``."""
        return lockstep.train(
            self,
            group,
            events=events,
            resume=resume,
            runtime=runtime,
            gather=lambda t: partial(Stack, size=self.cohort, compile=self.compiles(t)),
            in_common=_in_common,
        )


def _in_common(training: Training) -> Json:
    """What networks of one stack share beside steps, rates and optimizer."""
    task = training.task
    return [
        spec(training.model),
        list(task.input_shape),
        task.num_classes,
        task.batch_size,
        training.precision,
        spec(training.label_smoothing),
        spec(training.grad_clip),
        [len(split) for split in (task.train, task.validation, task.test)],
    ]


@lru_cache(maxsize=64)
def _unstackable(
    model: Callable[..., nn.Module], input_shape: tuple[int, ...], num_classes: int
) -> str | None:
    """Why two copies of a model cannot be trained as one, else None. Tried once."""
    with torch.random.fork_rng(devices=[]):
        module = model(input_shape=input_shape, num_classes=num_classes).train()
        values = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        stacked = {n: torch.stack([v.detach(), v.detach()]) for n, v in values.items()}
        x = torch.zeros(2, 2, *input_shape)
        state = torch.get_rng_state()
        try:
            torch.vmap(lambda v, x: torch.func.functional_call(module, v, (x,)))(stacked, x)
        except RuntimeError as error:
            return f"cannot stack {type(module).__name__} ({str(error).splitlines()[0]})"
        if not torch.equal(state, torch.get_rng_state()):
            return f"cannot stack {type(module).__name__}, which draws random numbers"
    return None
