"""A search for tickets: what it is made of, and the Trainings that each level has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lth import layer
from lth.complete import Watch, Workshop
from lth.dataset.task import Task
from lth.distillation import Distillation
from lth.event.evaluate import EARLY_STOP
from lth.fill import ZERO, fill_of
from lth.granularity.weights import Weights
from lth.history import History, Lineage
from lth.iterate import iterate
from lth.level import NOWHERE, Row
from lth.protocol import (
    Allocation,
    Baseline,
    Criterion,
    Event,
    Finder,
    Grain,
    Granularity,
    Init,
    Materials,
    Restart,
    Rewind,
    Schedule,
)
from lth.prune import Pruner
from lth.recall import Noted
from lth.store.stored import Stored
from lth.stream import Key, generator
from lth.training import LearningRate, Training, build_model, dense, initial_state, streams
from lth.transfer import Import
from lth.types import Mask, Scores, TrainState


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One lottery-ticket experiment over several seeds. All steps are in updates.

    ``tasks`` holds one Task per seed; ``streams`` overrides the seed of single
    streams (``init``, ``order``, ``augment``, ``module``, ``control``).
    ``order`` is ``per_level`` (a new data order at every level, shared by all
    variants of it) or ``shared``. ``noted`` gives the run's own references, for
    where states are no longer stored. ``imports`` holds one ticket from another
    run per seed: then it is level 1, and nothing is pruned. ``baseline_levels``
    says at which levels controls are trained.
    ``fill`` says what pruned weights hold (see ``lth.fill``).
    ``distillation`` gives the teacher of all networks of levels 1 and above, controls too.
    ``places`` is told of each Training under way, by id.
    """

    seeds: Sequence[int]
    levels: int
    tasks: Mapping[int, Task]
    model: Callable[..., nn.Module]
    init: Init
    optimizer: Callable[..., torch.optim.Optimizer]
    learning_rate: LearningRate
    criterion: Criterion
    allocation: Allocation
    schedule: Schedule
    rewind: Rewind
    baselines: Mapping[str, Baseline]
    eval_every: int
    rewind_step: int = 0
    prune_at: str | int = "end"
    score_steps: int = 1
    exclude: Sequence[str] = ()
    baseline_levels: frozenset[int] | None = None
    order: str = "per_level"
    streams: Mapping[str, int] = field(default_factory=dict)
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    precision: str = "fp32"
    fill: str = ZERO
    finder: Finder | None = None
    imports: Mapping[int, Import] = field(default_factory=dict)
    distillation: Callable[[History, Callable[..., nn.Module]], Distillation] | None = None
    granularity: Granularity = field(default_factory=Weights)
    noted: Noted = lambda seed, variant, level, draw: None
    watch: Watch = field(default_factory=Watch)
    events: tuple[Event, ...] = ()
    _dense: dict[int, Training] = field(default_factory=dict, repr=False)
    places: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def place_of(self, training: Training) -> dict[str, Any]:
        """``seed``, ``variant`` and ``level`` of a Training under way, for display."""
        return self.places.get(training.id, NOWHERE)

    @property
    def train_steps(self) -> int:
        """T: the length of the dense training."""
        return self.learning_rate.total

    @cached_property
    def layers(self) -> dict[str, str]:
        """The types of the prunable layers, by name."""
        task = self.tasks[self.seeds[0]]
        return layer.kinds(build_model(self.model, task, generator("layers")))

    @cached_property
    def grain(self) -> Grain:
        """The units of this network; ValueError where the granularity does not fit it."""
        # Output layers that imports re-drew are whole, and stay whole in controls too.
        redrawn = {n for own in self.imports.values() for n in own.redrawn}
        excluded = {*layer.select(self.layers, self.exclude), *(self.layers.keys() & redrawn)}
        return self.units(frozenset(excluded))

    def units(self, excluded: frozenset[str]) -> Grain:
        """The units of this network where pruning may not touch the ``excluded`` layers."""
        task = self.tasks[self.seeds[0]]
        return self.granularity(
            build_model(self.model, task, generator("grain")),
            layers=self.layers,
            excluded=excluded,
            input_shape=task.input_shape,
        )

    @property
    def excluded(self) -> frozenset[str]:
        """The layers that are never pruned."""
        return self.grain.excluded

    @cached_property
    def pruner(self) -> Pruner:
        """What gives a level its mask."""
        return Pruner(
            model=self.model,
            criterion=self.criterion,
            allocation=self.allocation,
            schedule=self.schedule,
            grain=self.grain,
            score_steps=self.score_steps,
            control_seed=lambda seed: self._seed("control", seed),
        )

    def has_controls(self, level: int) -> bool:
        """Whether controls are trained at this level."""
        return level > 0 and (self.baseline_levels is None or level in self.baseline_levels)

    def _seed(self, stream: str, seed: int) -> int:
        return self.streams.get(stream, seed)

    def theta_0(self, seed: int) -> TrainState:
        """The dense network at initialisation."""
        return self.dense(seed).start

    def dense(self, seed: int) -> Training:
        """Level 0: the whole network, all T updates."""
        if seed not in self._dense:
            self._dense[seed] = dense(
                task=self.tasks[seed],
                model=self.model,
                init=self.init,
                optimizer=self.optimizer,
                learning_rate=self.learning_rate,
                seed=self._seed("init", seed),
                streams=self._streams(seed, 0),
                eval_every=self.eval_every,
                label_smoothing=self.label_smoothing,
                grad_clip=self.grad_clip,
                precision=self.precision,
                events=self.events,
            )
        return self._dense[seed]

    def typical(self, seed: int) -> Training:
        """What most Trainings are like, for engines to be asked about before there are any.

        The dense network, taught by itself where later levels have a teacher.
        """
        dense = self.dense(seed)
        if self.distillation is None or self.levels == 0:
            return dense
        return dense.replace(distillation=Distillation(teacher=dense.start))

    def _streams(self, seed: int, level: int) -> dict[str, Key]:
        own = {n: s for n, s in self.streams.items() if n in ("order", "augment", "module")}
        return streams(seed, level if self.order == "per_level" else 0, **own)

    def ticket(
        self, history: History, parent: Training, mask: Mask, *, seed: int, level: int
    ) -> Training:
        """The rewound survivors, ready to be trained."""
        restart = self._restart(history, seed)
        return parent.replace(
            mask=mask,
            start=restart.state,
            first_step=restart.first_step,
            last_step=restart.last_step,
            learning_rate=dataclasses.replace(self.learning_rate, hold=restart.hold),
            streams=self._streams(seed, level),
            fill=None,
            distillation=self.distillation and self.distillation(history, self.model),
        )

    def filled(self, ticket: Training, history: History) -> Training:
        """The ticket with what its pruned weights hold; its controls hold the same.

        Weights moved from theta_0 to the state that was scored.
        """
        fill = fill_of(
            self.fill, ticket.mask, history.initial.weights, lambda: history.scored.weights
        )
        return ticket if fill is None else ticket.replace(fill=fill)

    def _restart(self, history: History, seed: int) -> Restart:
        """Where a ticket begins: as ``rewind`` says, with the values that were brought in."""
        restart = self.rewind(history)
        own = self.imports.get(seed)
        if own is None or own.start is None:
            return restart
        return dataclasses.replace(restart, state=_at(own.start, restart.first_step))

    def _dense_start(self, history: History, seed: int) -> TrainState:
        """The same for the dense network, unmasked."""
        restart = self.rewind(history.of_dense())
        own = self.imports.get(seed)
        if own is None or own.dense is None:
            return restart.state
        return _at(own.dense, restart.first_step)

    def control(
        self,
        baseline: Baseline,
        ticket: Training,
        history: History,
        *,
        seed: int,
        level: int,
        draw: int,
        train: Callable[..., Stored],
        parent: Training | None = None,
        cost: int = 0,
    ) -> Training:
        """One draw of one control of a ticket, whose mask is ``parent``'s pruned, at a ``cost``.

        ``train(training, watch)`` completes a Training.
        """
        key = ("control", self._seed("control", seed), level, draw)

        def fresh(model: Callable[..., nn.Module] = self.model) -> TrainState:
            return initial_state(model, ticket.task, self.init, generator(*key, "fresh"))

        if parent is not None:
            history = self.telling(history, parent, cost, train, seed=seed, level=level)
        return baseline(
            ticket,
            Materials(
                history=history,
                dense_start=self._dense_start(history, seed),
                fresh=fresh,
                stream=lambda *purpose: generator(*key, *purpose),
                train=train,
            ),
        )

    def telling(
        self,
        history: History,
        parent: Training,
        cost: int,
        train: Callable[..., Stored],
        *,
        seed: int,
        level: int,
    ) -> History:
        """The history with its lineage: what ``parent`` is pruned by, at a ``cost``."""

        def prune(
            training: Training,
            history: History,
            *,
            change: Callable[[Scores], Scores] = lambda scores: scores,
            allocation: Allocation | None = None,
        ) -> Mask:
            own = dataclasses.replace(self.pruner, allocation=allocation or self.allocation)
            return own.prune(history, training, seed, level, change=change)

        told = Lineage(
            parent=parent,
            dense=self.dense(seed),
            cost=cost,
            train=lambda training: train(training, self.ticket_watch()),
            prune=prune,
        )
        return dataclasses.replace(history, told=told)

    def dense_watch(self) -> Watch:
        """What later levels need of level 0: theta_k, with optimizer slots if they are rewound."""
        saved = any(
            getattr(r, "optimizer", "fresh") == "saved"
            for r in [self.rewind, *(getattr(b, "rewind", None) for b in self.baselines.values())]
        )
        keep = {self.rewind_step} if self.rewind_step > 0 and self.levels > 0 else set()
        watch = self.ticket_watch()
        return dataclasses.replace(
            watch,
            keep=watch.keep | keep,
            keep_optimizer=self.watch.keep_optimizer or (saved and bool(keep)),
        )

    def ticket_watch(self) -> Watch:
        """What later levels need of a parent: the state that is scored, and what saw it come."""
        at_step = isinstance(self.prune_at, int)
        watches = getattr(self.criterion, "watches", None)
        return dataclasses.replace(
            self.watch,
            probes={**self.watch.probes, **(watches(self.prune_at) if watches else {})},
            keep=self.watch.keep | ({int(self.prune_at)} if at_step else set()),
            keep_early_stop=self.watch.keep_early_stop or self.prune_at == EARLY_STOP,
        )

    def run(self, workshop: Workshop) -> Iterator[list[Row]]:
        """Complete the experiment, and give its rows level by level, of each seed in order.

        A diverged ticket ends its seed's later levels; a diverged control only
        itself. What the store holds is not trained again.
        """
        return iterate(self, workshop)

    def history(
        self, dense: Stored, parent: Stored, seed: int, excluded: frozenset[str] = frozenset()
    ) -> History:
        """What may be looked at when a child of ``parent`` is made."""
        return History(
            dense=dense,
            parent=parent,
            rewind_step=self.rewind_step,
            train_steps=self.train_steps,
            layers=self.layers,
            grain=self.grain,
            updates_per_epoch=self.tasks[seed].updates_per_epoch,
            prune_at=self.prune_at,
            excluded=excluded,
        )


def _at(state: TrainState, step: int) -> TrainState:
    return dataclasses.replace(state, step=step)
