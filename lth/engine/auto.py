"""The engine that suits each Training best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from lth.engine.break_even import BreakEvens
from lth.engine.loop import Loop
from lth.engine.mlp import MLP, Recall, refusal
from lth.protocol import Engine, Event, Result, Resume
from lth.runtime import Runtime
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Auto:
    """``mlp`` for what it can train, ``loop`` for everything else.

    The choice depends on the Training and the runtime alone, so it is the same
    when a run is resumed; the engine that was chosen is what is recorded.
    ``sparse_below`` and ``cohort`` are ``mlp``'s.
    """

    sparse_below: float | str | BreakEvens = MLP.sparse_below
    cohort: int = MLP.cohort

    def __post_init__(self) -> None:
        self._mlp()  # checks the options

    def _mlp(self) -> MLP:
        return MLP(sparse_below=self.sparse_below, cohort=self.cohort)

    def tuned(self, training: Training, runtime: Runtime, recall: Recall) -> Auto:
        """See ``MLP.tuned``, where that is what is chosen."""
        if refusal(training, runtime) is not None:
            return self
        mlp = self._mlp().tuned(training, runtime, recall)
        return replace(self, sparse_below=mlp.sparse_below)

    def repeating(self, numerics: Mapping[str, Any]) -> Auto:
        """See ``MLP.repeating``."""
        return replace(self, sparse_below=self._mlp().repeating(numerics).sparse_below)

    def choose(self, training: Training, runtime: Runtime) -> tuple[Engine, str]:
        """The engine, and why."""
        reason = refusal(training, runtime)
        if reason is None:
            return self._mlp(), "mlp (a Linear-ReLU network on the CPU)"
        return Loop(), f"loop (mlp {reason})"

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours of one engine, grouped as it likes."""
        parts = groupby(cohort, lambda t: self.choose(t, runtime)[0])
        return [g for engine, own in parts for g in engine.groups(list(own), runtime)]

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """Those of the engine that was chosen."""
        return self.choose(training, runtime)[0].numerics(runtime, training)

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        """By the engine of each."""
        for engine, own in groupby(group, lambda t: self.choose(t, runtime)[0]):
            yield from engine.train(list(own), events=events, resume=resume, runtime=runtime)
