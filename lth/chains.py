"""Chains of Trainings, each link needing the one before, completed by whoever is free."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TypeAlias

from lth.complete import Watch, Workshop
from lth.level import Planned, Row
from lth.store.stored import Stored
from lth.training import Training

Chain: TypeAlias = Generator[Planned | list[Row], list[Row], None]
"""Yields Trainings to be completed, and is sent their rows; yields the rows that are ready."""
Link: TypeAlias = Generator[Planned, list[Row], list[Row]]
"""A part of one: its rows are what it returns."""


def advance(chains: Sequence[Chain], workshop: Workshop) -> Iterator[list[Row]]:
    """Follow chains to their ends, and give their rows as they become ready.

    A process that works alone completes what all chains ask for together, so
    that an engine may train it together. Where several share the work, each
    takes whichever chain nobody else is at, so that nobody waits at the end of
    a level; where there are more processes than chains, a link is divided.
    """
    alone = workshop.processes == 1
    strands = [_Strand(c) for c in ([chains] if alone else [[c] for c in chains])]
    parts = -(-workshop.processes // max(1, len(strands)))
    for strand in strands:
        yield from strand.follow()
    while strands := [s for s in strands if s.trainings]:
        moved = False
        for strand in strands:
            stored = workshop.attempt(strand.trainings, strand.watches, parts=parts)
            if stored is not None:
                moved = True
                yield from strand.follow(stored)
        if not moved:
            # Others are at work on all of them.
            first = strands[0]
            yield from first.follow(workshop.complete(first.trainings, first.watches))


def complete(link: Link, workshop: Workshop) -> list[Row]:
    """The rows of a link, with all that it asks for, at once."""
    try:
        planned = next(link)
        while True:
            planned = link.send(planned.rows(workshop.complete(planned.trainings, planned.watches)))
    except StopIteration as end:
        rows: list[Row] = end.value
        return rows


class _Strand:
    """Chains that move together, and what they ask for."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._links: list[tuple[Chain, Planned | None]] = [(c, None) for c in chains]
        self.trainings: list[Training] = []
        self.watches: dict[str, Watch] = {}

    def follow(self, stored: Sequence[Stored] = ()) -> Iterator[list[Row]]:
        """Hand the chains what they asked for, and go on to what they ask for next.

        Rows are given before anything further is asked of their chains.
        """
        results = iter(stored)
        asked: list[tuple[Chain, Planned | list[Row] | None]] = []
        for chain, planned in self._links:
            rows = None
            if planned is not None:
                rows = planned.rows([next(results) for _ in planned.trainings])
            asked.append((chain, _ask(chain, rows)))
        while any(isinstance(item, list) for _, item in asked):
            yield [row for _, item in asked if isinstance(item, list) for row in item]
            asked = [(c, _ask(c) if isinstance(item, list) else item) for c, item in asked]
        links = [(c, item) for c, item in asked if isinstance(item, Planned)]
        self._links = [*links]
        self.trainings = [t for _, planned in links for t in planned.trainings]
        # Where two ask for the same Training, the first says what to watch.
        self.watches = {i: w for _, planned in links[::-1] for i, w in planned.watches.items()}


def _ask(chain: Chain, rows: list[Row] | None = None) -> Planned | list[Row] | None:
    """What a chain asks for or gives next; None at its end."""
    try:
        return next(chain) if rows is None else chain.send(rows)
    except StopIteration:
        return None
