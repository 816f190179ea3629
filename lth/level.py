"""One level of a search: its Trainings, their places, and the rows that come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
NOWHERE = {"seed": "-", "level": "-", "variant": PRELUDE}
"""The place of a Training that no level asks for, such as one that is recomputed."""


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

    def preludes(
        self, places: dict[str, dict[str, Any]], workshop: Workshop
    ) -> Callable[..., Stored]:
        """``train(training, watch)``: completes what has to be there before a row's Training.

        ``places`` is told which level it is for.
        """

        def train(training: Training, watch: Watch | None = None) -> Stored:
            place = {"seed": self.seed, "level": self.level, "variant": PRELUDE}
            places.setdefault(training.id, place)
            return workshop.complete([training], watch)[0]

        return train


class Planned:
    """Trainings with their places in a run; ``places`` is told of each by id."""

    def __init__(
        self,
        places: dict[str, dict[str, Any]],
        *,
        seed: int,
        level: int,
        parent_level: int | None = None,
    ) -> None:
        self._places = places
        self._place: dict[str, Any] = {
            "seed": seed,
            "level": level,
            "parent_level": parent_level,
        }
        self._rows: list[Callable[..., Row]] = []
        self.trainings: list[Training] = []
        self.watches: dict[str, Watch] = {}

    @classmethod
    def on(cls, ground: Ground, places: dict[str, dict[str, Any]]) -> Planned:
        """Empty, for the Trainings that stand on a ground."""
        return cls(places, seed=ground.seed, level=ground.level, parent_level=ground.parent.level)

    def plan(
        self,
        training: Training,
        watch: Watch,
        variant: str,
        *,
        cost: int = 0,
        draw: int = 0,
        options: Json = None,
        shown: str | None = None,
    ) -> None:
        """Add a Training that is ``shown`` by its variant or another name."""
        place = self._place
        self._places[training.id] = {**place, "variant": shown or variant}
        self.trainings.append(training)
        self.watches.setdefault(training.id, watch)
        self._rows.append(
            partial(
                Row,
                **place,
                variant=variant,
                draw=draw,
                search_steps=cost,
                options=options,
                make=lambda row: training,
            )
        )

    def rows(self, stored: Sequence[Stored]) -> list[Row]:
        """Their rows, once they are stored, in the order in which they were planned."""
        return [row(stored=found) for row, found in zip(self._rows, stored, strict=True)]
