"""The levels of a search, one after another: [train -> prune -> rewind]*, with controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lth.complete import Workshop
from lth.event.evaluate import EARLY_STOP
from lth.find import find, found, whole
from lth.level import TICKET, Ground, Level, Row
from lth.recall import noted_mask, recall
from lth.spec import spec
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search


def iterate(search: Search, workshop: Workshop) -> Iterator[list[Row]]:
    """Complete the experiment level by level, and give each level's rows.

    A diverged ticket ends its seed's later levels; a diverged control only
    itself. What the store holds is not trained again.
    """
    roots = {seed: search.dense(seed) for seed in search.seeds}
    for seed, training in roots.items():
        search.places[training.id] = {"seed": seed, "variant": "dense"}
    stored = workshop.complete(list(roots.values()), search.dense_watch())
    rows = [
        Row(
            seed=seed,
            variant=TICKET,
            draw=0,
            level=0,
            parent_level=None,
            search_steps=0,
            options=None,
            make=lambda row: roots[row.seed],
            stored=dense,
        )
        for seed, dense in zip(search.seeds, stored, strict=True)
    ]
    tickets: dict[tuple[int, int], Row] = {(r.seed, 0): r for r in rows}
    yield rows
    for level in range(1, search.levels + 1):
        rows = _level(search, level, tickets, workshop)
        tickets |= {(r.seed, level): r for r in rows if r.variant == TICKET}
        yield rows


def _level(
    search: Search,
    level: int,
    tickets: Mapping[tuple[int, int], Row],
    workshop: Workshop,
) -> list[Row]:
    """Complete a level of all seeds; what was finished and thinned is recalled."""

    def again(row: Row) -> Training:
        return _again(search, row, tickets, workshop)

    rows, seeds = list[Row](), list[int]()
    for seed in search.seeds:
        if _goes_on(search, seed, level, tickets):
            parent = tickets[seed, search.schedule(level).parent]
            recalled = recall(search, parent, level, workshop, again)
            rows += recalled or []
            seeds += [] if recalled else [seed]
    return rows + _make(search, seeds, level, tickets, workshop, again)


def _make(
    search: Search,
    seeds: Sequence[int],
    level: int,
    tickets: Mapping[tuple[int, int], Row],
    workshop: Workshop,
    again: Callable[[Row], Training] | None = None,
) -> list[Row]:
    """Complete a level of some seeds: what finds its masks, its tickets and their controls.

    With ``again``, what came of a finder's thinned result is recalled.
    """
    grounds = [_ground(search, seed, level, tickets, workshop) for seed in seeds]
    rows: list[Row] = []
    if search.finder is not None:
        rows, findings = find(search, search.finder, grounds, workshop)
        grounds = []
        for ground, row in findings:
            recalled = again and recall(search, row, level, workshop, again)
            rows += recalled or []
            if not recalled:
                grounds.append(found(search, search.finder, ground, row, workshop))
    planned = Level(search.places)
    for ground in grounds:
        _plan(search, ground, planned, workshop)
    return rows + planned.complete(workshop)


def _again(
    search: Search, row: Row, tickets: Mapping[tuple[int, int], Row], workshop: Workshop
) -> Training:
    """The Training of a row that was recalled."""
    parent = tickets[row.seed, search.schedule(row.level).parent]
    if row.variant == TICKET and not _reads_parent_end(search):
        dense, mask = tickets[row.seed, 0].stored, row.stored.mask("start")
        history = search.history(dense, parent.stored, row.seed, search.excluded)
        ticket = search.ticket(history, parent.training, mask, seed=row.seed, level=row.level)
        return search.filled(ticket, history)
    made = _make(search, [row.seed], row.level, tickets, workshop)
    return next(r.training for r in made if (r.variant, r.draw) == (row.variant, row.draw))


def _goes_on(search: Search, seed: int, level: int, tickets: Mapping[tuple[int, int], Row]) -> bool:
    """Whether a seed has this level: its parent is there, and the level before did not diverge."""
    previous = tickets.get((seed, level - 1))
    if previous is None or previous.stored.status == "diverged":
        return False
    return (seed, search.schedule(level).parent) in tickets


def _ground(
    search: Search,
    seed: int,
    level: int,
    tickets: Mapping[tuple[int, int], Row],
    workshop: Workshop,
) -> Ground:
    """What a seed's level stands on: its parent, and the mask that was brought in or is pruned."""
    parent, own = tickets[seed, search.schedule(level).parent], search.imports.get(seed)
    mask = None if own is None else own.mask
    if parent.stored.dropped:
        if mask is None and search.finder is None and not _reads_parent_end(search):
            mask = noted_mask(search, parent, level, workshop)
        if mask is None:
            parent = whole(search, parent, workshop)
    history = search.history(tickets[seed, 0].stored, parent.stored, seed, search.excluded)
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


def _plan(search: Search, ground: Ground, planned: Level, workshop: Workshop) -> None:
    """Plan a ticket and its controls."""
    history, parent = ground.history, ground.parent.training
    ticket = search.ticket(history, parent, ground.mask, seed=ground.seed, level=ground.level)
    ticket = search.filled(ticket, history)
    planned.plan(ground, ticket, search.ticket_watch(), TICKET, cost=ground.cost)
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
                train=lambda t, watch=None: workshop.complete([t], watch)[0],
                parent=parent,
                cost=ground.cost,
            )
            cost = ground.cost if baseline.searched else 0
            options = spec(baseline)
            planned.plan(ground, control, search.watch, name, draw=draw, cost=cost, options=options)


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
