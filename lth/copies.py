"""Copies of a run's networks under other data orders, made through its store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lth.baseline.other_order import OtherOrder
from lth.build import Run, build
from lth.complete import Watch, Workshop
from lth.level import Row
from lth.prepare import prepare, read_data
from lth.search import Search
from lth.store.run_folder import RunFolder
from lth.store.stored import Stored
from lth.training import Training
from lth.tuned import tuned_run


@dataclass(frozen=True, kw_only=True)
class Copies:
    """One network of a run and what its copies became: the same mask and start.

    ``rewind_step`` is the step that the copies start from; ``ends`` holds the
    stored copies, the network's own data order first.
    """

    seed: int
    level: int
    rewind_step: int
    density: float
    training: Training
    ends: Sequence[Stored]


def reopen(folder: RunFolder, **changes: Any) -> tuple[Run, Search]:
    """A stored run as it was last called, ready to go on; ``changes`` are root keys.

    Raises ConfigError where its data or configuration are not to be had any
    more, KeyError where the run was made before configurations were noted.
    """
    info = folder.info() or {"invocations": [{}]}
    config = dict(info["invocations"][-1]["config"])
    seeds = sorted({r.seed for r in folder.references()})
    config |= {"seeds": seeds, "baseline": {}, "event": {}, "workers": 1, **changes}
    config["store"] = {**config["store"], "root": str(folder.store_root)}
    run = build(config)
    search = prepare(run, read_data(run))
    return tuned_run(run, search), search


def rows(search: Search, workshop: Workshop, levels: Sequence[int]) -> list[Row]:
    """The tickets of a run at some levels; what its store lacks is trained."""
    upto = dataclasses.replace(search, levels=max(levels))
    return [
        row
        for found in upto.run(workshop)
        for row in found
        if row.variant == "ticket" and row.level in levels and row.stored.status != "diverged"
    ]


def copies(
    search: Search,
    workshop: Workshop,
    row: Row,
    dense: Row,
    *,
    count: int,
    rewind_step: int | None = None,
) -> Copies:
    """``count`` copies of a network: itself, and others by ``other_order``.

    Level 0 starts from theta_k too, k = ``rewind_step`` (default: the run's),
    with a fresh optimizer: then what its copies differ by is the noise after k.
    """
    k = search.rewind_step if rewind_step is None else rewind_step
    training = row.training
    (own,) = workshop.complete([training], Watch(tensors=True))
    if row.level == 0 and k > 0:
        (kept,) = workshop.complete([dense.training], Watch(keep=frozenset({k})))
        training = training.replace(start=kept.state(k), first_step=k)
        (own,) = workshop.complete([training])
    history = search.history(dense.stored, dense.stored, row.seed)

    def train(t: Training) -> Stored:
        return workshop.complete([t])[0]

    order: Any = OtherOrder()
    others = [
        search.control(
            order,
            training,
            history,
            seed=row.seed,
            level=row.level,
            draw=draw,
            train=train,
        )
        for draw in range(count - 1)
    ]
    return Copies(
        seed=row.seed,
        level=row.level,
        rewind_step=k,
        density=own.done["density"],
        training=training,
        ends=[own, *workshop.complete(others, Watch(tensors=True))],
    )


def all_copies(
    search: Search,
    workshop: Workshop,
    *,
    levels: Sequence[int],
    count: int,
    rewind_steps: Sequence[int],
    say: Callable[[str], None],
) -> Iterator[Copies]:
    """Copies of every seed at every level, and of the dense network from every ``rewind_steps``.

    The level before each is given too, as it is, without copies.
    """
    before = {level - 1 for level in levels if level > 0}
    found = rows(search, workshop, sorted({0, *levels, *before}))
    dense = {r.seed: r for r in found if r.level == 0}
    for row in found:
        if row.level not in levels:
            yield copies(search, workshop, row, dense[row.seed], count=1)
            continue
        say(f"seed {row.seed}, level {row.level}: {count} copies")
        steps = sorted({search.rewind_step, *rewind_steps}) if row.level == 0 else [None]
        for k in steps:
            yield copies(search, workshop, row, dense[row.seed], count=count, rewind_step=k)
