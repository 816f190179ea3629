"""The levels of a search, one after another: [train -> prune -> rewind]*, with controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from lth.chains import Chain, Link, advance, complete
from lth.complete import Workshop
from lth.event.evaluate import EARLY_STOP
from lth.find import finding, found, whole
from lth.level import TICKET, Ground, Planned, Row
from lth.recall import noted_mask, recall
from lth.spec import spec
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search


def iterate(search: Search, workshop: Workshop) -> Iterator[list[Row]]:
    """Complete the experiment, and give its rows level by level, of each seed in order.

    A diverged ticket ends its seed's later levels; a diverged control only
    itself. What the store holds is not trained again.
    """
    return advance([_levels(search, seed, workshop) for seed in search.seeds], workshop)


def _levels(search: Search, seed: int, workshop: Workshop) -> Chain:
    """The levels of a seed, one after another."""
    planned = Planned(search.places, seed=seed, level=0)
    planned.plan(search.dense(seed), search.dense_watch(), TICKET, shown="dense")
    rows = yield planned
    yield rows
    tickets = {0: rows[0]}
    for level in range(1, search.levels + 1):
        if tickets[level - 1].stored.status == "diverged":
            return
        rows = yield from _level(search, seed, level, tickets, workshop)
        yield rows
        ticket = next((r for r in rows if r.variant == TICKET), None)
        if ticket is None:
            return
        tickets[level] = ticket


def _level(
    search: Search, seed: int, level: int, tickets: Mapping[int, Row], workshop: Workshop
) -> Link:
    """The rows of a level; what was finished and thinned is recalled."""

    def again(row: Row) -> Training:
        return _again(search, row, tickets, workshop)

    parent = tickets[search.schedule(level).parent]
    recalled = recall(search, parent, level, workshop, again)
    return recalled or (yield from _make(search, seed, level, tickets, workshop, again))


def _make(
    search: Search,
    seed: int,
    level: int,
    tickets: Mapping[int, Row],
    workshop: Workshop,
    again: Callable[[Row], Training] | None = None,
) -> Link:
    """The rows of a level; without a ticket's where what finds its mask diverged.

    Scores decide masks, so they are computed with the threads and flags of
    training. With ``again``, what came of a finder's thinned result is recalled.
    """
    scoring = partial(workshop.runtime.active, search.precision)
    with scoring():
        ground = _ground(search, seed, level, tickets, workshop)
    rows: list[Row] = []
    if search.finder is not None:
        with scoring():
            planned = finding(search, search.finder, ground, workshop)
        rows = yield planned
        row = next(r for r in rows if r.variant == search.finder.variants[0])
        if row.stored.status == "diverged":
            return rows
        recalled = again and recall(search, row, level, workshop, again)
        if recalled:
            return rows + recalled
        with scoring():
            ground = found(search, search.finder, ground, row, workshop)
    with scoring():
        planned = _planned(search, ground, workshop)
    return rows + (yield planned)


def _again(search: Search, row: Row, tickets: Mapping[int, Row], workshop: Workshop) -> Training:
    """The Training of a row that was recalled."""
    parent = tickets[search.schedule(row.level).parent]
    if row.variant == TICKET and not _reads_parent_end(search):
        dense, mask = tickets[0].stored, row.stored.mask("start")
        history = search.history(dense, parent.stored, row.seed, search.excluded)
        ticket = search.ticket(history, parent.training, mask, seed=row.seed, level=row.level)
        return search.filled(ticket, history)
    made = complete(_make(search, row.seed, row.level, tickets, workshop), workshop)
    return next(r.training for r in made if (r.variant, r.draw) == (row.variant, row.draw))


def _ground(
    search: Search,
    seed: int,
    level: int,
    tickets: Mapping[int, Row],
    workshop: Workshop,
) -> Ground:
    """What a seed's level stands on: its parent, and the mask that was brought in or is pruned."""
    parent, own = tickets[search.schedule(level).parent], search.imports.get(seed)
    mask = None if own is None else own.mask
    if parent.stored.dropped:
        if mask is None and search.finder is None and not _reads_parent_end(search):
            mask = noted_mask(search, parent, level, workshop)
        if mask is None:
            parent = whole(search, parent, workshop)
    history = search.history(tickets[0].stored, parent.stored, seed, search.excluded)
    if mask is None:
        mask = search.pruner.prune(history, parent.training, seed, level)
    return Ground(
        seed=seed,
        level=level,
        parent=parent,
        history=history,
        mask=mask,
        cost=own.cost if own else parent.search_steps + _scored_after(search, parent),
    )


def _planned(search: Search, ground: Ground, workshop: Workshop) -> Planned:
    """A ticket and its controls."""
    history, parent = ground.history, ground.parent.training
    ticket = search.ticket(history, parent, ground.mask, seed=ground.seed, level=ground.level)
    ticket = search.filled(ticket, history)
    planned = Planned.on(ground, search.places)
    planned.plan(ticket, search.ticket_watch(), TICKET, cost=ground.cost)
    baselines = search.baselines if search.has_controls(ground.level) else {}
    for name, baseline in baselines.items():
        for draw in range(baseline.draws):
            control = search.control(
                baseline,
                ticket,
                history,
                seed=ground.seed,
                level=ground.level,
                draw=draw,
                train=ground.preludes(search.places, workshop),
                parent=parent,
                cost=ground.cost,
            )
            cost = ground.cost if baseline.searched else 0
            options = spec(baseline)
            planned.plan(control, search.watch, name, draw=draw, cost=cost, options=options)
    return planned


def _scored_after(search: Search, parent: Row) -> int:
    """The updates of a parent's training that its child's mask needs."""
    training, early = parent.training, parent.stored.done["early_stop"]
    if isinstance(search.prune_at, int):
        return search.prune_at - training.first_step
    if search.prune_at == EARLY_STOP and early is not None:
        return int(early["step"]) - training.first_step
    return training.updates


def _reads_parent_end(search: Search) -> bool:
    """Whether tickets or controls use anything of what their parent's training ended with."""
    if any(getattr(b, "rescores", False) for b in search.baselines.values()):
        return True
    cells = [search.rewind, *(b.rewind for b in search.baselines.values() if hasattr(b, "rewind"))]
    return search.fill == "by_movement" or any(
        getattr(c, "weights", "final") == "final" or getattr(c, "statistics", "") == "other"
        for c in cells
    )
