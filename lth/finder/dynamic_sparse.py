"""RigL and SET: a mask that moves while its weights are trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lth.history import History
from lth.mask import apply_state, keep_top
from lth.option import one_of
from lth.protocol import Allocate, Allocation, Change, Moment, Record
from lth.step import Step, positive_step
from lth.store.stored import Stored
from lth.stream import generator
from lth.training import Training
from lth.types import Mask, TrainState

if TYPE_CHECKING:
    from lth.search import Search

GROWTHS = ("gradient", "random")
STATIC = "static"


@dataclass(frozen=True, kw_only=True)
class DynamicSparse:
    """Trains the level's mask from the ticket's start, and lets it move (see ``DropGrow``).

    ``growth``: ``gradient`` is RigL (Evci et al. 2020), ``random`` SET (Mocanu
    et al. 2018). With ``prune_at=0it`` and ``criterion=random`` the mask is
    random at initialisation. Control ``static``: the same mask, start and
    length, but the mask stays. Excluded layers keep theirs.
    """

    growth: str = "gradient"
    every: Step | str = "100it"
    fraction: float = 0.3
    until: float = 0.75

    def __post_init__(self) -> None:
        one_of("growth", self.growth, GROWTHS)
        object.__setattr__(self, "every", positive_step("every", self.every))
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction: got {self.fraction}, allowed: 0 < fraction <= 1")
        if not 0 < self.until <= 1:
            raise ValueError(f"until: got {self.until}, allowed: 0 < until <= 1 (of the training)")

    def check(self, search: Search) -> None:
        """A mask that would never move is no finding."""
        updates = search.train_steps - search.rewind_step
        every = Step.parse(self.every).updates(search.tasks[search.seeds[0]].updates_per_epoch)
        end = min(math.ceil(self.until * updates), updates)
        if every >= end:
            raise ValueError(
                f"finder.every: got {self.every}, allowed: below {end}it (the mask moves until "
                f"{self.until:g} of {updates} updates)"
            )

    @property
    def variants(self) -> Sequence[str]:
        return ("rigl" if self.growth == "gradient" else "set", STATIC)

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        event = DropGrow(
            growth=self.growth,
            every=Step.parse(self.every),
            fraction=self.fraction,
            until=self.until,
            fixed=tuple(n for n in ticket.mask if n in history.excluded),
        )
        return ticket.replace(events=(*ticket.events, event))

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """The mask at the end."""
        return found.mask()

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {STATIC: finding.replace(events=finding.events[:-1])}


@dataclass(frozen=True, kw_only=True)
class DropGrow:
    """RigL (Evci et al. 2020) and SET (Mocanu et al. 2018) as one event of a training.

    Every ``every`` updates each layer drops ``k = round(f(t) n)`` of its n
    weights, those of the smallest magnitude, and grows k of those inactive
    until then: the largest by dense gradient on the next batch (RigL) or at
    random (SET). ``f(t) = fraction / 2 (1 + cos(pi t / (until T)))`` until the
    share ``until`` of the T updates; none later. New weights and their
    optimizer slots are 0; a layer's count never changes; ties go to the lower
    index. Layers in ``fixed`` keep their mask. (RigL's code lets a weight be
    dropped and grown at once; here what is dropped stays out until the next
    update.)
    """

    growth: str
    every: Step
    fraction: float
    until: float
    fixed: tuple[str, ...] = ()

    def steps(self, training: Training) -> Iterable[int]:
        every = self.every.updates(training.task.updates_per_epoch)
        end = training.first_step + math.ceil(self.until * training.updates)
        return range(training.first_step + every, min(end, training.last_step), every)

    def rate(self, training: Training, step: int) -> float:
        """f(t): the share of a layer's weights that is replaced."""
        progress = (step - training.first_step) / (self.until * training.updates)
        return self.fraction / 2 * (1 + math.cos(math.pi * progress))

    def __call__(self, moment: Moment, record: Record) -> Change:
        rate = self.rate(moment.training, moment.step)
        # Some optimizers keep something where nothing is: what grows must not find it.
        state = apply_state(moment.state(optimizer=True), moment.mask)
        gradient = moment.gradient() if self.growth == "gradient" else {}
        mask, rows = dict(moment.mask), []
        for name in (n for n in mask if n not in self.fixed):
            # Shapes and order are those on the CPU, where streams are drawn.
            old = mask[name].cpu()
            if self.growth == "gradient":
                growing = gradient[name].abs().cpu()
            else:
                key = (*moment.training.streams["order"], "grow", name, moment.step)
                growing = torch.rand(old.shape, generator=generator(*key), dtype=torch.float64)
            mask[name], replaced = replace(old, state.weights[name].abs(), growing, rate)
            ever = record.memory.get(f"ever/{name}", old) | mask[name]
            record.memory[f"ever/{name}"] = ever
            rows.append(
                {
                    "step": moment.step,
                    "layer": name,
                    "replaced": replaced,
                    "active": int(mask[name].sum()),
                    "ever_active": int(ever.sum()),
                    "all": ever.numel(),
                }
            )
        record.probes.setdefault("drop_grow", []).extend(rows)
        return Change(state=state, mask=mask)


def replace(mask: Tensor, magnitude: Tensor, growing: Tensor, rate: float) -> tuple[Tensor, int]:
    """A layer's next mask, and how many weights it replaced."""
    active = int(mask.sum())
    count = min(round(rate * active), mask.numel() - active)
    kept = keep_top({"": magnitude}, {"": mask}, active - count)[""]
    grown = keep_top({"": growing}, {"": ~mask}, count)[""]
    return kept | grown, count
