"""The seams: what each kind of component takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from lth.dataset.task import Split
from lth.runtime import Runtime
from lth.training import Training
from lth.types import Mask, Metrics, Scores, TrainState, Weights

if TYPE_CHECKING:
    from lth.history import History
    from lth.store.stored import Stored


@runtime_checkable
class Init(Protocol):
    """Fills a module's parameters in place, from ``generator`` alone."""

    def __call__(self, model: nn.Module, *, generator: torch.Generator) -> None: ...


@runtime_checkable
class RateShape(Protocol):
    """The multiplier of the base learning rate at a step of ``total``."""

    def __call__(self, step: int, total: int) -> float: ...


@runtime_checkable
class Criterion(Protocol):
    """Scores every weight of ``mask``; higher = keep. Knows nothing of budgets.

    ``forward(state, x, train=True)`` runs the network in train or eval mode and
    changes nothing; ``batches()`` iterates over the level's training batches.
    Where it has ``watches(prune_at)``, that gives the events, by name, that have
    to watch the training of a parent: ``history.watched`` is what they kept.
    """

    def __call__(
        self,
        history: History,
        mask: Mask,
        *,
        forward: Callable[..., Tensor],
        batches: Callable[[], Iterator[tuple[Tensor, Tensor]]],
        generator: torch.Generator,
    ) -> Scores: ...


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """How one level is pruned: whose weights, and how much.

    A layer with rate p keeps ``(1 - p) ** times`` of its parent's survivors.
    Where ``density`` (kept / all prunable, absolute) is given instead,
    ``times`` is solved for.
    """

    parent: int
    rate: float
    times: int = 1
    density: float | None = None


@runtime_checkable
class Schedule(Protocol):
    """Gives each level its parent and its rate."""

    def __call__(self, level: int) -> Pruning: ...


@runtime_checkable
class Allocation(Protocol):
    """Spends the budget: a mask nested in ``mask`` with exactly the promised counts.

    ``layers`` are the types of the layers in ``mask``. ``keep`` is the total
    number of weights to keep, where a target density fixes it; else ``rate``
    and ``times`` do. Where it has ``check(search)``, that is called as a
    control's is. One whose layers' counts follow from the rate, not from a
    total, says so by ``by_rate = True``: finders are given those counts.
    """

    def __call__(
        self,
        scores: Scores,
        mask: Mask,
        *,
        layers: Mapping[str, str],
        rate: float,
        times: int,
        keep: int | None,
    ) -> Mask: ...


@runtime_checkable
class Grain(Protocol):
    """The units of one network: what is kept or pruned whole.

    Units are told by named tensors, as weights are: ``alive(mask)`` says which
    ones a mask keeps, ``score(scores, mask)`` scores them by the scores of
    their weights, ``expand(alive, mask)`` is the mask that keeps them, where
    ``mask`` is one to start from. ``layers`` are the types of the layers that
    they are units of, by the name of the units; layers in ``excluded`` have
    none that may be pruned. ``scored`` are the layers whose weights' scores count.
    ``spending`` is how units are allocated where the run's ``allocation`` was
    chosen; with ``fixed`` the pattern alone says how many are kept.
    ``weights_per_unit`` is None where it differs from unit to unit. Layers in
    ``bypassed`` may be empty without the network being cut.

    For controls: ``shuffle`` permutes a mask's units, ``draw`` takes as many
    weights by the highest scores of units, each in the same pattern.
    """

    @property
    def layers(self) -> Mapping[str, str]: ...
    @property
    def excluded(self) -> frozenset[str]: ...
    @property
    def scored(self) -> frozenset[str]: ...
    @property
    def fixed(self) -> bool: ...
    @property
    def weights_per_unit(self) -> int | None: ...
    @property
    def bypassed(self) -> frozenset[str]: ...

    def alive(self, mask: Mask) -> Mask: ...

    def score(self, scores: Scores, mask: Mask) -> Scores: ...

    def expand(self, alive: Mask, mask: Mask) -> Mask: ...

    def spending(self, allocation: Allocation) -> Allocation: ...

    def shuffle(self, mask: Mask, generator: torch.Generator) -> Mask: ...

    def draw(self, scores: Scores, mask: Mask) -> Mask: ...


@runtime_checkable
class Granularity(Protocol):
    """What is pruned together: finds the units of a network.

    ``layers`` are the types of its prunable layers, ``excluded`` those that the
    user excludes; layers that do not fit join them. ValueError, naming the
    option, where nothing fits.
    """

    def __call__(
        self,
        module: nn.Module,
        *,
        layers: Mapping[str, str],
        excluded: frozenset[str],
        input_shape: Sequence[int],
    ) -> Grain: ...


Allocate: TypeAlias = Callable[[Scores], Mask]
"""Spends a level's budget on scores: a mask nested in the parent's."""


@runtime_checkable
class Finder(Protocol):
    """Finds a ticket's mask by a training of its own: dynamic sparse, gradual, early-bird.

    Called with the ticket that criterion and allocation would give at once, it
    makes the Training that finds; ``start`` is that ticket's start, unmasked;
    ``keep`` the number of weights to keep in all layers that pruning may touch.
    ``mask`` reads the mask off that Training's result; ``history`` is what it
    was made from. A finder with ``of_units = True`` allocates among the units of
    the granularity: it gives ``allocate`` their scores, and says by
    ``refusal(grain)`` where it cannot. ``controls`` are Trainings beside it.
    ``variants`` names its own result first, then those; the ticket is the mask
    that was found, rewound and trained. Where it has ``trains_weights`` and that
    is False, final weights are the parent's.

    Where several trainings find it together, they are made by
    ``history.lineage``, the one it returns is the last, and ``spent(finding)``
    counts the updates of the others. ``check(search)`` and ``ahead(outlook)``,
    where it has them, are as a control's; the latter leaves ``controls`` out.
    """

    @property
    def variants(self) -> Sequence[str]: ...

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training: ...

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask: ...

    def controls(self, finding: Training) -> Mapping[str, Training]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Restart:
    """Where a training begins: a state, the span of its updates, its schedule held or not."""

    state: TrainState
    first_step: int
    last_step: int
    hold: bool = False


@runtime_checkable
class Rewind(Protocol):
    """What the survivors start from, read from the history."""

    def __call__(self, history: History) -> Restart: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Materials:
    """What a control is made of, beside the ticket.

    ``history.lineage`` says how the ticket's mask was found. ``dense_start`` is
    where the ticket's own rewinding would put the dense network, unmasked.
    ``fresh()`` draws a new theta_0 (of another model: ``fresh(model)``) and
    ``stream(*purpose)`` gives generators, both keyed by seed, level and draw.
    ``train`` returns a Training's stored result, trained now if need be.
    """

    history: History
    dense_start: TrainState
    fresh: Callable[..., TrainState]
    stream: Callable[..., torch.Generator]
    train: Callable[[Training], Stored]


@runtime_checkable
class Baseline(Protocol):
    """Makes a control out of a ticket's Training.

    ``draws`` says how many independent ones; ``searched`` whether the control
    uses what the search found (then the search's cost is its cost too).

    Where it has ``check(search)``, that is called before anything is trained
    and raises ValueError for what the control cannot be made of. Where it trains
    anything but one Training as long as the ticket's, ``ahead(outlook)`` tells
    the plan all that it trains (``lth.outlook``). One that uses the parent's
    scores again says so by ``rescores = True``.
    """

    draws: int
    searched: bool

    def __call__(self, ticket: Training, given: Materials) -> Training: ...


@dataclass(kw_only=True, eq=False)
class Record:
    """What a Training has produced so far; a checkpoint holds all of it.

    ``states`` are named ``early_stop`` or by step (``500``). ``predictions``
    maps ``<split>/<when>/<class|loss>`` to one value per example. ``probes``
    holds one list of rows per probe. ``memory`` is what events need to go on
    from a checkpoint; it is not stored in the end.
    """

    metrics: Metrics = field(default_factory=list)
    states: dict[str, TrainState] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    probes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    memory: dict[str, Tensor] = field(default_factory=dict)
    early_stop_step: int | None = None
    status: str = "running"
    seconds: float = 0.0


class Moment(Protocol):
    """A training seen at one step, after ``step`` updates and before the next."""

    @property
    def training(self) -> Training: ...

    @property
    def step(self) -> int: ...

    @property
    def mask(self) -> Mask: ...

    def state(self, *, optimizer: bool = False) -> TrainState:
        """A copy of the network (and the optimizer's slots) on the CPU."""
        ...

    def evaluate(self, split: Split, state: TrainState | None = None) -> tuple[Tensor, Tensor]:
        """Per-example loss (float32) and predicted class (int64) in eval mode, on the CPU.

        Of the network as it is, or of another ``state`` of it.
        """
        ...

    def batch_loss(self) -> float:
        """Mean training loss over the updates since this was last asked; NaN if none."""
        ...

    def pending_loss(self) -> tuple[float, int]:
        """Sum and count of the training losses since ``batch_loss`` was last asked."""
        ...

    def gradient(self) -> Weights:
        """The dense gradient at this step's batch; changes nothing in the training."""
        ...

    def module(self) -> nn.Module:
        """The live module, to be looked at only."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """A new state and mask, from an event of ``Training.events``."""

    state: TrainState
    mask: Mask


@dataclass(frozen=True, kw_only=True)
class Stop:
    """Ends the training at this step."""


@runtime_checkable
class Event(Protocol):
    """Something that happens at declared steps between updates.

    Where it has ``close(moment, record)``, that is called once where another
    event stops the training before its last step.
    """

    def steps(self, training: Training) -> Iterable[int]: ...

    def __call__(self, moment: Moment, record: Record) -> Change | Stop | None: ...


def last_look(event: Event, moment: Moment, record: Record) -> None:
    """Call ``event.close``, where it has one, because another event stopped the training."""
    close = getattr(event, "close", None)
    if close is not None:
        close(moment, record)


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What an engine gives for one Training. ``end`` is its last state, ``mask`` its last mask."""

    training: Training
    end: TrainState
    mask: Mask
    record: Record
    numerics: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Resume:
    """A training caught in the middle: its state with optimizer slots, its mask, its record.

    ``pending_loss``: sum and count of the training losses not yet reported.
    """

    state: TrainState
    mask: Mask
    record: Record
    pending_loss: tuple[float, int] = (0.0, 0)


@runtime_checkable
class Engine(Protocol):
    """Trains cohorts. Every engine agrees with ``loop`` within a stated tolerance."""

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Which Trainings are trained (and recomputed) together."""
        ...

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The engine's choices and the runtime's."""
        ...

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]: ...


@runtime_checkable
class Store(Protocol):
    """Keeps each Training once, under its id; ``put`` is atomic."""

    def get(self, training_id: str) -> Stored | None:
        """The verified Training, or None; DamagedError names a file that is not as stored."""
        ...

    def put(self, result: Result, *, observed: Mapping[str, Any]) -> Stored: ...

    def amend(self, stored: Stored, states: Mapping[str, TrainState]) -> Stored:
        """Add kept states to a stored Training."""
        ...

    def discard(self, training_id: str) -> None: ...

    def lock(self, training_id: str, *, wait: bool) -> AbstractContextManager[bool]:
        """Hold the Training for this process; gives False where another one does."""
        ...

    def load_checkpoint(self, training: Training, numerics: Mapping[str, Any]) -> Resume | None: ...

    def save_checkpoint(
        self, training: Training, resume: Resume, numerics: Mapping[str, Any]
    ) -> None: ...


@runtime_checkable
class Sink(Protocol):
    """Mirrors a run while it happens; never read from, and never the end of a run."""

    def open(self, plan: Mapping[str, Any]) -> None:
        """``text`` (what is planned), ``folder``, full ``config``, ``seeds``, ``experiment``,
        ``sweep``, and ``say``, which reaches every sink."""
        ...

    def progress(self, row: Mapping[str, Any]) -> None: ...

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A level: what is stored of all its Trainings, and the ``reference`` of each."""
        ...

    def say(self, text: str) -> None: ...

    def close(self, status: str, findings: Callable[[], Mapping[str, Any]] | None) -> None:
        """``done`` or ``failed``; ``findings`` (of a run that is done) computes what it shows."""
        ...
