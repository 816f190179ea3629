"""The search for a ticket: [train -> prune -> rewind]* over levels, with its controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from lth import layer
from lth import mask as masks
from lth.complete import Watch, Workshop
from lth.dataset.task import Task
from lth.distillation import Distillation
from lth.engine.batches import Batches
from lth.event.evaluate import EARLY_STOP
from lth.fill import ZERO, fill_of
from lth.granularity.weights import Weights
from lth.history import History, Lineage
from lth.level import PRELUDE, TICKET, Ground, Level, Row
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
from lth.spec import spec
from lth.store.stored import Stored
from lth.stream import Key, generator
from lth.training import (
    LearningRate,
    Training,
    build_model,
    dense,
    initial_state,
    streams,
)
from lth.transfer import Import
from lth.types import Mask, Scores, TrainState


class CriterionError(Exception):
    """A criterion cannot score what it was given; the message names its option."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One lottery-ticket experiment over several seeds. All steps are in updates.

    ``tasks`` holds one Task per seed; ``streams`` overrides the seed of single
    streams (``init``, ``order``, ``augment``, ``module``, ``control``).
    ``order`` is ``per_level`` (a new data order at every level, shared by all
    variants of it) or ``shared``. ``known(seed, level, parent's id)`` gives a
    ticket's mask that was found before, for where the parent's end is no longer
    stored. ``imports`` holds one ticket from another run per seed: then it is level 1,
    and nothing is pruned. ``baseline_levels`` says at which levels controls are trained.
    ``fill`` says what pruned weights hold (see ``lth.fill``).
    ``distillation`` gives the teacher of all networks of levels 1 and above, controls too.
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
    known: Callable[[int, int, str], Mask | None] = lambda seed, level, parent: None
    watch: Watch = field(default_factory=Watch)
    events: tuple[Event, ...] = ()
    _dense: dict[int, Training] = field(default_factory=dict, repr=False)
    _places: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def place_of(self, training: Training) -> dict[str, Any]:
        """``seed`` and ``variant`` of a Training under way, for display."""
        return self._places.get(training.id, {"seed": "-", "variant": PRELUDE})

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
        task = self.tasks[self.seeds[0]]
        # Output layers that imports re-drew are whole, and stay whole in controls too.
        redrawn = {n for own in self.imports.values() for n in own.redrawn}
        excluded = {*layer.select(self.layers, self.exclude), *(self.layers.keys() & redrawn)}
        return self.granularity(
            build_model(self.model, task, generator("grain")),
            layers=self.layers,
            excluded=frozenset(excluded),
            input_shape=task.input_shape,
        )

    @property
    def excluded(self) -> frozenset[str]:
        """The layers that are never pruned."""
        return self.grain.excluded

    def trainings_of(self, level: int) -> int:
        """How many Trainings a level has, over all seeds."""
        if level == 0:
            return len(self.seeds)
        controls = sum(b.draws for b in self.baselines.values())
        found = len(self.finder.variants) if self.finder else 0
        return len(self.seeds) * (1 + found + (controls if self.has_controls(level) else 0))

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

    def _forward(self, task: Task) -> Callable[[TrainState, Tensor], Tensor]:
        module = build_model(self.model, task, generator("forward"))

        def forward(state: TrainState, x: Tensor, *, train: bool = True) -> Tensor:
            module.to(x.device).train(train)
            # BatchNorm in train mode writes to its buffers, which are not ours to change.
            values = {**state.weights, **{n: b.clone() for n, b in state.buffers.items()}}
            moved = {n: v.to(x.device) for n, v in values.items()}
            output: Tensor = torch.func.functional_call(module, moved, (x,))
            return output

        return forward

    def prune(
        self,
        history: History,
        parent: Training,
        seed: int,
        level: int,
        *,
        change: Callable[[Scores], Scores] = lambda scores: scores,
    ) -> Mask:
        """The mask of ``level``, nested in its parent's; ``change`` is done to the units' scores.

        Excluded layers stay whole and count as kept. Raises ValueError where a
        target density cannot be reached.
        """
        mask = history.mask
        free = self._free(mask)
        device = getattr(parent.task.train.labels, "device", torch.device("cpu"))
        draws = Batches(parent, device)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            return (draws(step) for step in range(parent.task.updates_per_epoch))

        def score(history: History, free: Mask, step: int) -> Scores:
            key = ("criterion", self._seed("control", seed), level)
            try:
                scores = self.criterion(
                    history,
                    free,
                    forward=self._forward(parent.task),
                    batches=batches,
                    generator=generator(*key, step) if step else generator(*key),
                )
            except ValueError as error:
                raise CriterionError(f"criterion.{error}") from None
            return change(self.grain.score(scores, {**history.mask, **free}))

        whole = self._budget(score(history, free, 0), mask, level)
        if self.score_steps == 1:
            return whole
        return self._in_steps(score, history, whole, level)

    def _free(self, mask: Mask) -> dict[str, Tensor]:
        """The layers whose weights are scored."""
        return {n: m for n, m in mask.items() if n in self.grain.scored}

    def _in_steps(
        self,
        score: Callable[[History, Mask, int], Scores],
        history: History,
        whole: Mask,
        level: int,
    ) -> Mask:
        """Score and prune ``score_steps`` times, counts falling exponentially to the budget's.

        The last step spends the level's own budget; what went before goes first.
        """
        grain, mask = self.grain, history.mask
        parent = grain.alive(mask)
        start, end = masks.remaining(parent), masks.remaining(grain.alive(whole))

        def seen(left: Mask, step: int) -> Scores:
            return score(history.under(left), self._free(left), step)

        rate = self.schedule(level).rate  # only the layers' proportions depend on it here
        left: Mask = dict(mask)
        for step in range(1, self.score_steps):
            keep = round(start * (end / start) ** (step / self.score_steps))
            scores, alive = seen(left, step), grain.alive(left)
            left = grain.expand(self._spend(scores, alive, rate, 1, keep), mask)
        alive = grain.alive(left)
        gone = {
            n: torch.where(alive[n], s, s.new_tensor(-torch.inf))
            for n, s in seen(left, self.score_steps).items()
        }
        return self._budget(gone, mask, level)

    def _spend(
        self, scores: Scores, alive: Mask, rate: float, times: int, keep: int | None
    ) -> Mask:
        """Allocate among units."""
        grain = self.grain
        layers = {n: grain.layers[n] for n in alive}
        spending = grain.spending(self.allocation)
        return spending(scores, alive, layers=layers, rate=rate, times=times, keep=keep)

    def allocate(self, scores: Scores, mask: Mask, level: int) -> dict[str, Tensor]:
        """Spend the level's budget: the child mask of ``mask``. See ``prune``."""
        return self._budget(self.grain.score(scores, mask), mask, level)

    def _budget(self, scores: Scores, mask: Mask, level: int) -> dict[str, Tensor]:
        """Spend the level's budget on units of these scores."""
        grain, pruning = self.grain, self.schedule(level)
        keep = None
        if pruning.density is not None:
            if grain.weights_per_unit is None:
                raise ValueError(
                    f"densities: got {pruning.density}, allowed: a schedule of rates (the units of "
                    "this granularity do not all have as many weights)"
                )
            every = masks.prunable(mask)
            free = self._free(mask)
            fixed = masks.size(every) - masks.size(free)
            keep = round(pruning.density * masks.size(every)) - fixed
            if not 0 <= keep <= masks.remaining(free):
                raise ValueError(
                    f"densities: got {pruning.density}, allowed: {fixed / masks.size(every):.4g} "
                    f"(the excluded layers) to {masks.density(mask):.4g}"
                )
            keep = round(keep / grain.weights_per_unit)
        pruned = self._spend(scores, grain.alive(mask), pruning.rate, pruning.times, keep)
        child = dict(grain.expand(pruned, mask))
        assert masks.nested(child, mask)
        return child

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
            history = self._telling(history, parent, cost, train, seed=seed, level=level)
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

    def _telling(
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
            own = dataclasses.replace(self, allocation=allocation or self.allocation)
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
        """Complete the experiment level by level, and give each level's rows.

        A diverged ticket ends its seed's later levels; a diverged control only
        itself. What the store holds is not trained again.
        """
        roots = {seed: self.dense(seed) for seed in self.seeds}
        for seed, training in roots.items():
            self._places[training.id] = {"seed": seed, "variant": "dense"}
        stored = workshop.complete(list(roots.values()), self.dense_watch())
        rows = [
            Row(
                seed=seed,
                variant=TICKET,
                draw=0,
                level=0,
                parent_level=None,
                search_steps=0,
                options=None,
                training=roots[seed],
                stored=found,
            )
            for seed, found in zip(self.seeds, stored, strict=True)
        ]
        tickets: dict[tuple[int, int], Row] = {(r.seed, 0): r for r in rows}
        yield rows
        for level in range(1, self.levels + 1):
            rows = self._level(level, tickets, workshop)
            tickets |= {(r.seed, level): r for r in rows if r.variant == TICKET}
            yield rows

    def _level(
        self,
        level: int,
        tickets: Mapping[tuple[int, int], Row],
        workshop: Workshop,
    ) -> list[Row]:
        grounds = []
        for seed in self.seeds:
            parent = tickets.get((seed, self.schedule(level).parent))
            previous = tickets.get((seed, level - 1))
            if parent is None or previous is None or previous.stored.status == "diverged":
                continue
            dense = tickets[seed, 0].stored
            own = self.imports.get(seed)
            mask = None if own is None else own.mask
            if parent.stored.dropped:
                if mask is None and self.finder is None and not self._reads_parent_end():
                    mask = self.known(seed, level, parent.training.id)
                if mask is None:
                    again = dataclasses.replace(self.ticket_watch(), tensors=True)
                    (found,) = workshop.complete([parent.training], again)
                    parent = dataclasses.replace(parent, stored=found)
            history = self.history(dense, parent.stored, seed, self.excluded)
            if mask is None:
                mask = self.prune(history, parent.training, seed, level)
            grounds.append(
                Ground(
                    seed=seed,
                    level=level,
                    parent=parent,
                    history=history,
                    mask=mask,
                    cost=own.cost if own else parent.search_steps + self._scored_after(parent),
                )
            )
        rows: list[Row] = []
        if self.finder is not None:
            rows, grounds = self._find(self.finder, grounds, workshop)
        planned = Level(self._places)
        for ground in grounds:
            ticket = self.ticket(
                ground.history, ground.parent.training, ground.mask, seed=ground.seed, level=level
            )
            ticket = self.filled(ticket, ground.history)
            planned.plan(ground, ticket, self.ticket_watch(), TICKET, cost=ground.cost)
            for name, baseline in self.baselines.items() if self.has_controls(level) else ():
                for draw in range(baseline.draws):
                    control = self.control(
                        baseline,
                        ticket,
                        ground.history,
                        seed=ground.seed,
                        level=level,
                        draw=draw,
                        train=lambda t, watch=None: workshop.complete([t], watch)[0],
                        parent=ground.parent.training,
                        cost=ground.cost,
                    )
                    cost = ground.cost if baseline.searched else 0
                    options = spec(baseline)
                    planned.plan(
                        ground, control, self.watch, name, draw=draw, cost=cost, options=options
                    )
        return rows + planned.complete(workshop)

    def _scored_after(self, parent: Row) -> int:
        """The updates of a parent's training that its child's mask needs."""
        training, early = parent.training, parent.stored.done["early_stop"]
        if isinstance(self.prune_at, int):
            return self.prune_at - training.first_step
        if self.prune_at == EARLY_STOP and early is not None:
            return int(early["step"]) - training.first_step
        return training.updates

    def _reads_parent_end(self) -> bool:
        """Whether tickets or controls use anything of what their parent's training ended with."""
        if any(getattr(b, "rescores", False) for b in self.baselines.values()):
            return True
        cells = [self.rewind, *(b.rewind for b in self.baselines.values() if hasattr(b, "rewind"))]
        return self.fill == "by_movement" or any(
            getattr(c, "weights", "final") == "final" or getattr(c, "statistics", "") == "other"
            for c in cells
        )

    def _find(
        self, finder: Finder, grounds: Sequence[Ground], workshop: Workshop
    ) -> tuple[list[Row], list[Ground]]:
        """Train what finds the masks; its rows, and the grounds with what it found.

        Where finding diverged, its seed ends here.
        """
        planned = Level(self._places)
        for ground in grounds:
            parent, history = ground.parent.training, ground.history
            ticket = self.ticket(history, parent, ground.mask, seed=ground.seed, level=ground.level)
            finding = finder(
                ticket,
                start=self.rewind(history).state,
                history=self._telling(
                    history,
                    parent,
                    ground.cost,
                    lambda t, watch: workshop.complete([t], watch)[0],
                    seed=ground.seed,
                    level=ground.level,
                ),
                allocation=self.allocation,
                keep=masks.remaining({n: ground.mask[n] for n in history.prunable()}),
            )
            spent = getattr(finder, "spent", lambda training: 0)(finding)
            planned.plan(
                ground,
                finding,
                self.ticket_watch(),
                finder.variants[0],
                cost=ground.cost + spent,
            )
            for name, control in finder.controls(finding).items():
                planned.plan(ground, control, self.watch, name, cost=ground.cost)
        rows = planned.complete(workshop)
        found = {r.seed: r for r in rows if r.variant == finder.variants[0]}
        return rows, [
            self._found(finder, ground, found[ground.seed], workshop)
            for ground in grounds
            if found[ground.seed].stored.status != "diverged"
        ]

    def _found(self, finder: Finder, ground: Ground, row: Row, workshop: Workshop) -> Ground:
        old, found = ground.history, row.stored
        if found.dropped:
            again = dataclasses.replace(self.ticket_watch(), tensors=True)
            (found,) = workshop.complete([row.training], again)
        spend = self._budget if getattr(finder, "of_units", False) else self.allocate

        def allocate(scores: Scores) -> Mask:
            return spend(scores, old.mask, ground.level)

        # Where no weight was trained, what is rewound is still the parent's.
        parent = found if getattr(finder, "trains_weights", True) else old.parent
        return dataclasses.replace(
            ground,
            history=dataclasses.replace(old, parent=parent),
            mask=finder.mask(found, history=old, allocate=allocate),
            cost=row.search_steps + found.done["updates"],
        )

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
