"""Which Trainings a search is going to make, without making them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lth.level import TICKET
from lth.outlook import Ahead, Outlook, span
from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A row to come, with its Training and those that are made for it; ``what`` is set in all."""

    seed: int
    level: int
    variant: str
    draw: int
    trainings: Sequence[Ahead]


def expected(search: Search) -> Iterator[Expected]:
    """The rows of all levels and seeds, as if nothing diverged.

    What a control or a finder trains it says itself (``ahead``); by default one
    Training, as long as the ticket's.
    """
    for seed in search.seeds:
        yield _row(seed, 0, TICKET, 0, [_dense(search)])
        for level, outlook in _outlooks(search, seed):
            yield from _level(search, seed, level, outlook)


def trainings(rows: Sequence[Expected]) -> dict[tuple[Any, ...], Ahead]:
    """Their Trainings, those that are the same once."""
    return {(r.seed, r.level, t.what): t for r in rows for t in r.trainings}


def _level(search: Search, seed: int, level: int, outlook: Outlook) -> Iterator[Expected]:
    found, names = _finding(search, outlook), search.finder.variants if search.finder else ()
    for name in names:
        yield _row(seed, level, name, 0, found if name == names[0] else found[-1:])
    yield _row(seed, level, TICKET, 0, [outlook.ticket])
    outlook = replace(outlook, cost=outlook.cost + sum(t.updates for t in found))
    for name, baseline in search.baselines.items() if search.has_controls(level) else ():
        ahead = getattr(baseline, "ahead", lambda outlook: [outlook.ticket])
        for draw in range(baseline.draws):
            yield _row(seed, level, name, draw, ahead(replace(outlook, draw=draw)))


def _row(seed: int, level: int, variant: str, draw: int, trainings: Sequence[Ahead]) -> Expected:
    named = [
        t if t.what is not None else replace(t, what=(variant, draw, i))
        for i, t in enumerate(trainings)
    ]
    return Expected(seed=seed, level=level, variant=variant, draw=draw, trainings=named)


def _dense(search: Search) -> Ahead:
    return Ahead(first_step=0, last_step=search.train_steps)


def _outlooks(search: Search, seed: int) -> Iterator[tuple[int, Outlook]]:
    """Each level from 1, its cost without what its finder is going to spend."""
    steps = {
        "rewind_step": search.rewind_step,
        "train_steps": search.train_steps,
        "updates_per_epoch": search.tasks[seed].updates_per_epoch,
    }
    ticket = span(search.rewind, **steps)
    spans, costs = {0: _dense(search)}, {0: 0}
    for level in range(1, search.levels + 1):
        parent, own = search.schedule(level).parent, search.imports.get(seed)
        cost = own.cost if own else costs[parent] + _scored_after(search, spans[parent])
        outlook = Outlook(ticket=ticket, parent=spans[parent], cost=cost, **steps)
        yield level, outlook
        spans[level] = ticket
        costs[level] = cost + sum(t.updates for t in _finding(search, outlook))


def _finding(search: Search, outlook: Outlook) -> Sequence[Ahead]:
    """What the finder trains, without its controls; the last is what it finds the mask by."""
    if search.finder is None:
        return ()
    ahead = getattr(search.finder, "ahead", lambda outlook: [outlook.ticket])
    trained: Sequence[Ahead] = ahead(outlook)
    return trained


def _scored_after(search: Search, parent: Ahead) -> int:
    """The updates of a parent that its child's mask needs, at most."""
    if isinstance(search.prune_at, int):
        return search.prune_at - parent.first_step
    return parent.updates
