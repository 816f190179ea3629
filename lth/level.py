"""One level of a search: its Trainings, their places, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lth.complete import Watch, Workshop
from lth.history import History
from lth.spec import Json
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask

TICKET = "ticket"
PRELUDE = "prelude"
"""What display calls a Training that a control needs before itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One stored Training of a run and its place in it.

    ``search_steps`` are the updates spent to obtain its mask; ``options`` is
    the canonical spec of a control, None for the ticket. ``make`` gives the
    Training, when it is asked for.
    """

    seed: int
    variant: str
    draw: int
    level: int
    parent_level: int | None
    search_steps: int
    options: Json
    make: Callable[[Row], Training]
    stored: Stored

    @cached_property
    def training(self) -> Training:
        """What was trained."""
        return self.make(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """What a seed's trainings of a level stand on. ``cost``: the updates spent on the mask."""

    seed: int
    level: int
    parent: Row
    history: History
    mask: Mask
    cost: int


class Level:
    """Trainings with their places, completed together; ``places`` is told of each by id."""

    def __init__(self, places: dict[str, dict[str, Any]]) -> None:
        self._places = places
        self._planned: list[Callable[[Stored], Row]] = []
        self._trainings: list[Training] = []
        self._watches: dict[str, Watch] = {}

    def plan(
        self,
        ground: Ground,
        training: Training,
        watch: Watch,
        variant: str,
        *,
        cost: int,
        draw: int = 0,
        options: Json = None,
    ) -> None:
        self._places[training.id] = {"seed": ground.seed, "variant": variant}
        self._trainings.append(training)
        self._watches.setdefault(training.id, watch)
        self._planned.append(
            lambda stored: Row(
                seed=ground.seed,
                variant=variant,
                draw=draw,
                level=ground.level,
                parent_level=ground.parent.level,
                search_steps=cost,
                options=options,
                make=lambda row: training,
                stored=stored,
            )
        )

    def complete(self, workshop: Workshop) -> list[Row]:
        """Their rows, in the order in which they were planned."""
        stored = workshop.complete(self._trainings, self._watches)
        return [row(found) for row, found in zip(self._planned, stored, strict=True)]
