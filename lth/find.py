"""What finds a level's masks by a training of its own, where criterion and budget do not."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from lth import mask as masks
from lth.complete import Workshop
from lth.counts import Counts, counts_of
from lth.level import Ground, Planned, Row
from lth.protocol import Allocation, Finder
from lth.types import Mask, Scores

if TYPE_CHECKING:
    from lth.search import Search


def finding(search: Search, finder: Finder, ground: Ground, workshop: Workshop) -> Planned:
    """What finds a level's mask, and its controls."""
    parent, history = ground.parent.training, ground.history
    ticket = search.ticket(history, parent, ground.mask, seed=ground.seed, level=ground.level)
    training = finder(
        ticket,
        start=search.rewind(history).state,
        history=search.telling(
            history,
            parent,
            ground.cost,
            ground.preludes(search.places, workshop),
            seed=ground.seed,
            level=ground.level,
        ),
        allocation=_spending(search, ground.mask),
        keep=masks.remaining({n: ground.mask[n] for n in history.prunable()}),
    )
    spent = getattr(finder, "spent", lambda training: 0)(training)
    planned = Planned.on(ground, search.places)
    planned.plan(training, search.ticket_watch(), finder.variants[0], cost=ground.cost + spent)
    for name, control in finder.controls(training).items():
        planned.plan(control, search.watch, name, cost=ground.cost)
    return planned


def _spending(search: Search, mask: Mask) -> Allocation:
    """How a finder spends what it keeps: where rates decide, on a level's own counts."""
    if not getattr(search.allocation, "by_rate", False):
        return search.allocation
    return Counts(counts=counts_of(search.grain.alive(mask)))


def whole(search: Search, row: Row, workshop: Workshop) -> Row:
    """A ticket's or a finder's row with the states that its store may have dropped."""
    if not row.stored.dropped:
        return row
    again = dataclasses.replace(search.ticket_watch(), tensors=True)
    (stored,) = workshop.complete([row.training], again)
    return dataclasses.replace(row, stored=stored)


def found(search: Search, finder: Finder, ground: Ground, row: Row, workshop: Workshop) -> Ground:
    """The ground with the mask that a finder's ``row`` found."""
    old, stored = ground.history, whole(search, row, workshop).stored
    spend = (
        search.pruner.allocate_units
        if getattr(finder, "of_units", False)
        else search.pruner.allocate
    )

    def allocate(scores: Scores) -> Mask:
        return spend(scores, old.mask, ground.level)

    # Where no weight was trained, what is rewound is still the parent's.
    parent = stored if getattr(finder, "trains_weights", True) else old.parent
    return dataclasses.replace(
        ground,
        history=dataclasses.replace(old, parent=parent),
        mask=finder.mask(stored, history=old, allocate=allocate),
        cost=row.search_steps + stored.done["updates"],
    )
