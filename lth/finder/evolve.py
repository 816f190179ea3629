"""Evolved layer densities: which share of the budget each layer should get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch

from lth.counts import Counts, counts_of, share
from lth.history import History
from lth.option import at_least
from lth.outlook import Ahead, Outlook
from lth.protocol import Allocate, Allocation
from lth.step import Step, positive_step
from lth.store.stored import Stored
from lth.stream import generator
from lth.training import Training
from lth.types import Mask, TrainState

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class Evolve:
    """CMA-ES (Hansen & Ostermeier 2001) over the layers' densities at the level's fixed total.

    A candidate is one number x per layer that pruning may touch: its density
    is proportional to ``exp(x)``, layers that would exceed their survivors are
    kept whole, and the total is exact. Within its count each layer keeps its
    highest scores. Fitness is the validation loss after ``updates`` of the
    ticket's own training. The first candidate is the run's own allocation, and
    the search starts from it with step size ``sigma``; ``generations`` of
    ``population`` follow. The best mask of all wins (ties: the earliest).

    Every candidate is a Training that the store keeps, and the optimizer's
    random numbers come from the ticket's data order, so a search that was
    broken off goes on where it was. What all candidates cost is the ticket's search cost.
    """

    updates: Step | str = "1ep"
    generations: int = 5
    population: int = 6
    sigma: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "updates", positive_step("updates", self.updates))
        at_least("generations", self.generations, 1)
        at_least("population", self.population, 4)
        if not self.sigma > 0:
            raise ValueError(f"sigma: got {self.sigma}, allowed: above 0")

    def check(self, search: Search) -> None:
        """CMA-ES wants two numbers at least, and its package."""
        if find_spec("cmaes") is None:
            raise ValueError("finder: got evolve, allowed with the package cmaes (lth[evolve])")
        free = len(search.layers) - len(search.excluded)
        if free < 2:
            raise ValueError(f"exclude: got {free} layers left, allowed: 2 or more (finder evolve)")

    @property
    def variants(self) -> Sequence[str]:
        return ("evolve",)

    def _last(self, ticket: Training | Ahead, updates_per_epoch: int) -> int:
        """Where a candidate of a ticket ends."""
        updates = Step.parse(self.updates).updates(updates_per_epoch)
        return min(ticket.first_step + updates, ticket.last_step)

    def ahead(self, level: Outlook) -> list[Ahead]:
        """All candidates, as if no two were equal."""
        last = self._last(level.ticket, level.updates_per_epoch)
        short = Ahead(first_step=level.ticket.first_step, last_step=last)
        return [short] * (1 + self.generations * self.population)

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        from cmaes import CMA

        lineage = history.lineage
        free = list(history.prunable())
        sizes = {n: ticket.mask[n].numel() for n in free}
        limits = {n: count for n, count in counts_of(history.mask).items() if n in sizes}
        last = self._last(ticket, ticket.task.updates_per_epoch)

        def candidate(mask: Mask) -> Training:
            return ticket.replace(mask=mask, start=start, last_step=last)

        def masked(point: Sequence[float]) -> Mask:
            counts = spread(dict(zip(free, point, strict=True)), sizes, limits, keep)
            return lineage.prune(lineage.parent, history, allocation=Counts(counts=counts))

        own = counts_of(ticket.mask)
        seed = torch.randint(2**31, (), generator=generator(*ticket.streams["order"], "evolve"))
        optimizer = CMA(
            mean=np.array([math.log(max(1, own[n]) / sizes[n]) for n in free]),
            sigma=self.sigma,
            seed=int(seed),
            population_size=self.population,
        )
        best = candidate(ticket.mask)
        lowest = loss_of(lineage.train(best))
        for _ in range(self.generations):
            seen = []
            for _ in range(self.population):
                point = optimizer.ask()
                training = candidate(masked(point.tolist()))
                loss = loss_of(lineage.train(training))
                seen.append((point, loss))
                if loss < lowest:
                    best, lowest = training, loss
            optimizer.tell(seen)
        return best

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """The best candidate's."""
        return found.mask()

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}

    def spent(self, finding: Training) -> int:
        """The updates of all other candidates, also of those that were equal to one before."""
        return self.generations * self.population * finding.updates


def spread(
    point: Mapping[str, float], sizes: Mapping[str, int], limits: Mapping[str, int], keep: int
) -> dict[str, int]:
    """The layers' counts: densities proportional to ``exp(point)``, ``keep`` in all."""
    highest = max(point.values())
    ideal = {n: sizes[n] * math.exp(x - highest) for n, x in point.items()}
    return share(ideal, limits, keep)


def loss_of(stored: Stored) -> float:
    """The validation loss at the end; infinite where the training diverged."""
    loss = float(stored.metrics()[-1]["val_loss"])
    return loss if math.isfinite(loss) else math.inf
