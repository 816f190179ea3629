"""The engine for CUDA: a cohort's updates as parallel branches of one captured graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from lth.engine import lockstep
from lth.engine.branches import Branches, refused
from lth.option import at_least
from lth.protocol import Event, Result, Resume
from lth.runtime import Runtime
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Captures the updates of up to ``cohort`` networks in one CUDA graph and replays it.

    Each network is a branch of the graph, so that launches vanish and small
    kernels overlap; events happen between replays. ``channels_last`` lays
    images and convolutions out that way. Refused: other devices, models that
    draw random numbers, optimizers other than SGD, Adam and AdamW.
    """

    cohort: int = 8
    channels_last: bool = False

    def __post_init__(self) -> None:
        at_least("cohort", self.cohort, 1)

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours, at most ``cohort`` of them."""
        return lockstep.batched(cohort, self.cohort)

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, and the precision."""
        return {
            "engine": "graph",
            "channels_last": self.channels_last,
            "precision": training.precision,
            **runtime.numerics(),
        }

    def refusal(self, training: Training, runtime: Runtime) -> str | None:
        """Why this engine cannot train it, or None where it can."""
        if runtime.torch_device.type != "cuda":
            return f"captures CUDA graphs, and the device is {runtime.torch_device.type}"
        task = training.task
        if hasattr(task.train, "ahead"):
            return "captures what lies on the device, not streamed data"
        noisy = draws_random(training.model, tuple(task.input_shape), task.num_classes)
        return refused(training.optimizer) or (
            f"cannot capture {noisy}, which draws random numbers" if noisy else None
        )

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
            gather=lambda training: partial(Branches, channels_last=self.channels_last),
            in_common=lambda training: training.precision,
            channels_last=self.channels_last,
        )


@lru_cache(maxsize=64)
def draws_random(
    model: Callable[..., nn.Module], input_shape: tuple[int, ...], num_classes: int
) -> str | None:
    """The name of a model whose forward pass draws random numbers, else None. Tried once."""
    with torch.random.fork_rng(devices=[]):
        module = model(input_shape=input_shape, num_classes=num_classes).train()
        state = torch.get_rng_state()
        module(torch.zeros(2, *input_shape))
        moved = not torch.equal(state, torch.get_rng_state())
    return type(module).__name__ if moved else None
