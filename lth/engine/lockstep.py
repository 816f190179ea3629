"""Networks that advance together from event to event, whoever computes their updates."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from lth import mask as masks
from lth.dataset.task import Split
from lth.engine.batches import Batches
from lth.engine.network import Network
from lth.protocol import Change, Engine, Event, Record, Result, Resume, Stop, last_look
from lth.runtime import Runtime
from lth.spec import Json, canonical, spec
from lth.stream import seed_of
from lth.training import Training
from lth.types import Mask, TrainState, Weights


class Together(Protocol):
    """Networks that advance step by step; each is known by its index."""

    def advance(self, stop: int) -> None:
        """Update every network until step ``stop``, and set the step of each."""
        ...

    def state(self, index: int, *, optimizer: bool) -> TrainState:
        """A copy of one network (and its optimizer's slots) on the CPU."""
        ...

    def evaluate(self, index: int, split: Split, state: TrainState | None) -> tuple[Tensor, Tensor]:
        """See ``Moment.evaluate``."""
        ...


Gather: TypeAlias = Callable[[Sequence["Live"]], Together]
"""Binds networks together."""


class CohortEngine(Engine, Protocol):
    """An engine whose networks advance together, at most ``cohort`` of them."""

    @property
    def cohort(self) -> int: ...

    def refusal(self, training: Training, runtime: Runtime) -> str | None: ...


def train(
    engine: CohortEngine,
    group: Sequence[Training],
    *,
    events: Callable[[Training], Sequence[Event]],
    resume: Callable[[Training], Resume | None],
    runtime: Runtime,
    gather: Callable[[Training], Gather],
    in_common: Callable[[Training], Json] = lambda training: None,
    parts: Callable[[Sequence[Live]], Sequence[Sequence[Live]]] | None = None,
    channels_last: bool = False,
) -> Iterator[Result]:
    """Yield the result of each Training when those that advance with it have ended.

    ``gather(training)`` says how networks like it are bound; ``in_common`` what
    they must share beside steps, rates and optimizer; ``parts`` how those that
    could advance together are divided (default: ``cohort`` neighbours).
    ValueError names what the engine cannot do.
    """
    parts = parts or (lambda lives: batched(lives, engine.cohort))
    for training in group:
        reason = engine.refusal(training, runtime)
        if reason is not None:
            name = type(engine).__module__.rpartition(".")[2]
            raise ValueError(f"engine: got {name}, which {reason}, allowed: auto, loop")
    device = runtime.torch_device
    lives = [Live(t, resume(t), events(t), device, channels_last=channels_last) for t in group]
    for members in alike(lives, in_common):
        first = members[0].training
        for part in parts(members):
            with runtime.active(first.precision):
                run(part, gather(first))
            for live in part:
                yield Result(
                    training=live.training,
                    end=live.state(),
                    mask=live.mask,
                    record=live.record,
                    numerics=engine.numerics(runtime, live.training),
                )


class Live:
    """One Training under way; a ``Moment``. Its values lie elsewhere while it is bound there."""

    def __init__(
        self,
        training: Training,
        resume: Resume | None,
        events: Sequence[Event],
        device: torch.device,
        *,
        channels_last: bool = False,
    ) -> None:
        self.training = training
        self.device = device
        self.events = [*training.events, *events]
        self.record = Record() if resume is None else resume.record
        self.step = training.first_step if resume is None else resume.state.step
        self.resumed_at = None if resume is None else resume.state.step
        mask = training.mask if resume is None else resume.mask
        self.start = masks.apply_state(
            training.start if resume is None else resume.state, mask, training.filled
        )
        self.network = Network(training, device, channels_last=channels_last)
        self.network.load(self.start, mask)
        self.mask: Mask = self.network.mask
        loss, count = (0.0, 0) if resume is None else resume.pending_loss
        self.loss_sum, self.loss_count = torch.tensor(loss, device=device), count
        self._bound: tuple[Together, int] | None = None

    def due(self) -> dict[int, set[int]]:
        """The steps of each event, from where this training is."""
        return {id(e): {s for s in e.steps(self.training) if s >= self.step} for e in self.events}

    def bind(self, together: Together, index: int) -> None:
        """From now on the values are those of a cohort."""
        self._bound = (together, index)

    def pause(self, state: TrainState, change: Change | None) -> None:
        """Take the values out of the cohort, changed where an event did so."""
        self._bound = None
        mask = self.mask if change is None else change.mask
        self.start = masks.apply_state(
            state if change is None else change.state, mask, self.training.filled
        )
        self.network.load(self.start, mask)
        self.mask = self.network.mask

    def look_at(self, change: Change) -> None:
        """Show later events of this step what an earlier one changed."""
        self.pause(change.state, change)

    # What an event sees.

    def state(self, *, optimizer: bool = False) -> TrainState:
        if self._bound is None:
            slots = self.start.optimizer if optimizer else None
            slots = (slots or {}) if optimizer else None
            return TrainState(
                step=self.step,
                weights={n: w.clone() for n, w in self.start.weights.items()},
                buffers={n: b.clone() for n, b in self.start.buffers.items()},
                optimizer=slots,
            )
        together, index = self._bound
        return together.state(index, optimizer=optimizer)

    def evaluate(self, split: Split, state: TrainState | None = None) -> tuple[Tensor, Tensor]:
        if self._bound is None:
            return self.network.evaluate(split, state)
        together, index = self._bound
        return together.evaluate(index, split, state)

    def pending_loss(self) -> tuple[float, int]:
        return float(self.loss_sum), self.loss_count

    def batch_loss(self) -> float:
        mean = float(self.loss_sum) / self.loss_count if self.loss_count else float("nan")
        self.loss_sum.zero_()
        self.loss_count = 0
        return mean

    def gradient(self) -> Weights:
        x, y = Batches(self.training, self.device)(self.step)
        self._synced()
        return self.network.gradient(x, y, seed_of(*self.training.streams["module"], self.step))

    def module(self) -> nn.Module:
        self._synced()
        return self.network.module

    @torch.no_grad()
    def _synced(self) -> None:
        if self._bound is not None:
            state = self.state()
            live = {**self.network.parameters, **self.network.buffers}
            for name, value in {**state.weights, **state.buffers}.items():
                live[name].copy_(value)


T = TypeVar("T")


def batched(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Neighbours, at most ``size`` of them."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def alike(lives: Sequence[Live], also: Callable[[Training], Json]) -> list[list[Live]]:
    """The networks that can advance together: the same steps, rates and optimizer.

    ``also`` says what else they must have in common.
    """
    found: dict[str, list[Live]] = {}
    for live in lives:
        found.setdefault(_signature(live, also(live.training)), []).append(live)
    return list(found.values())


def _signature(live: Live, also: Json) -> str:
    training = live.training
    counters = sorted({float(v) for v in (live.start.optimizer or {}).values() if v.ndim == 0})
    known = sorted({k.rpartition("/")[2] for k in live.start.optimizer or {}})
    return canonical(
        [
            live.step,
            training.last_step,
            spec(training.learning_rate),
            spec(training.optimizer),
            counters,
            known,
            also,
        ]
    )


def run(members: Sequence[Live], gather: Gather) -> None:
    """Advance from event to event; a network that stops leaves the others.

    ``gather`` binds networks together, anew whenever one leaves or is changed.
    """
    active = list(members)
    together = _bound(active, gather)
    due = {id(live): live.due() for live in active}
    stops = sorted(set().union(*(set().union(*d.values()) for d in due.values())))
    last = active[0].training.last_step
    for stop in (s for s in sorted({*stops, last}) if s <= last):
        began = time.perf_counter()
        together.advance(stop)
        _share(began, active)
        changed: dict[int, Change] = {}
        ended = []
        began = time.perf_counter()
        for index, live in enumerate(active):
            if _happen(live, stop, due[id(live)], index, changed):
                ended.append(live)
        _share(began, active)  # what one asks for may be found for all
        if ended or changed:
            states = [live.state(optimizer=True) for live in active]
            for index, live in enumerate(active):
                live.pause(states[index], changed.get(index))
            active = [live for live in active if live not in ended]
            if not active:
                return
            together = _bound(active, gather)
    for live in active:
        if live.record.status == "running":
            live.record.status = "done"
        live.pause(live.state(optimizer=True), None)


def _share(began: float, lives: Sequence[Live]) -> None:
    """Note the time since then, in equal parts."""
    each = (time.perf_counter() - began) / len(lives)
    for live in lives:
        live.record.seconds += each


def _bound(lives: Sequence[Live], gather: Gather) -> Together:
    together = gather(lives)
    for index, live in enumerate(lives):
        live.bind(together, index)
    return together


def _happen(
    live: Live,
    step: int,
    due: Mapping[int, set[int]],
    index: int,
    changed: dict[int, Change],
) -> bool:
    """The events of one network at one step; True where one of them stopped it."""
    if live.resumed_at == step:
        return False  # a checkpoint is written last at its step, so these happened already
    record: Record = live.record
    for event in live.events:
        if step not in due[id(event)]:
            continue
        outcome = event(live, record)
        if isinstance(outcome, Change):
            if not any(event is own for own in live.training.events):
                raise ValueError(
                    f"{type(event).__name__} changes the training, so it belongs into its events"
                )
            changed[index] = outcome
            live.look_at(outcome)
        if isinstance(outcome, Stop):
            if record.status == "running":
                record.status = "stopped"
                for other in live.events:
                    last_look(other, live, record)
            return True
    return False
