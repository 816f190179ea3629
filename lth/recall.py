"""The rows of a level that was finished before, where its parent's states are no longer stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lth.complete import Watch, Workshop
from lth.level import TICKET, Row
from lth.spec import Json, spec
from lth.store.run_folder import Reference
from lth.training import Training
from lth.types import Mask

if TYPE_CHECKING:
    from lth.search import Search

Noted = Callable[[int, str, int, int], Reference | None]
"""What a run noted of a place: seed, variant, level, draw; None where nothing is."""


def recall(
    search: Search,
    before: Row,
    level: int,
    workshop: Workshop,
    again: Callable[[Row], Training],
) -> list[Row] | None:
    """The rows of ``level`` that came of ``before``: of a parent, or of what found its mask.

    None where the states of ``before`` are stored, and where a row is missing,
    damaged or lacks what is to be recorded. ``again(row)`` makes a row's
    Training, where one is asked for.
    """
    if not before.stored.dropped or not _is_noted(search.noted, before):
        return None
    finding = list[_Place]()
    if search.finder is not None and before.variant == TICKET:
        first, *others = search.finder.variants
        finding = [_Place(variant=first, watch=search.ticket_watch())]
        finding += [_Place(variant=name, watch=search.watch) for name in others]
    rows = _rows(search.noted, before, level, finding, workshop, again)
    if rows is None or any(r.variant == first and r.stored.status == "diverged" for r in rows):
        return rows
    controls = [
        _Place(variant=name, watch=search.watch, draw=draw, options=spec(baseline))
        for name, baseline in (search.baselines.items() if search.has_controls(level) else ())
        for draw in range(baseline.draws)
    ]
    own = [_Place(variant=TICKET, watch=search.ticket_watch()), *controls]
    trained = _rows(search.noted, before, level, own, workshop, again)
    return None if trained is None else rows + trained


def noted_mask(search: Search, before: Row, level: int, workshop: Workshop) -> Mask | None:
    """The ticket's mask that came of ``before``, if that is noted and stored."""
    own = search.noted(before.seed, TICKET, level, 0)
    if own is None or not _is_noted(search.noted, before):
        return None
    stored = workshop.find(own.training, Watch())
    return None if stored is None else stored.mask("start")


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A row that a level has to have: how it is recorded, and a control's options."""

    variant: str
    watch: Watch
    draw: int = 0
    options: Json = None


def _is_noted(noted: Noted, row: Row) -> bool:
    """Whether a row is the one that the run noted.

    Where its states were dropped since, what was noted to come of it still does:
    a Training that was computed again has all of its states.
    """
    reference = noted(row.seed, row.variant, row.level, 0)
    return reference is not None and reference.training == row.stored.id


def _rows(
    noted: Noted,
    before: Row,
    level: int,
    places: Sequence[_Place],
    workshop: Workshop,
    again: Callable[[Row], Training],
) -> list[Row] | None:
    """What is noted and stored of some places; None where that is not all."""
    rows = []
    for place in places:
        reference = noted(before.seed, place.variant, level, place.draw)
        if reference is None or reference.options != place.options:
            return None
        stored = workshop.find(reference.training, place.watch)
        if stored is None:
            return None
        rows.append(
            Row(
                seed=before.seed,
                variant=place.variant,
                draw=place.draw,
                level=level,
                parent_level=reference.parent_level,
                search_steps=reference.search_steps,
                options=reference.options,
                make=again,
                stored=stored,
            )
        )
    return rows
