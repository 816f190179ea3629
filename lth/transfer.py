"""Tickets brought in from other runs: read from a store, fitted to the network of this run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from lth import mask as masks
from lth.level import TICKET
from lth.protocol import Grain
from lth.spec import Json, state_digest, tensor_digest
from lth.store.run_folder import Place, Reference, RunFolder, locate, read_reference
from lth.store.stored import Stored
from lth.types import Mask, TrainState, Weights

Shape: TypeAlias = tuple[int, ...]

STARTS = ("init", "rewound", "end")

COMBINATIONS: Mapping[str, Callable[..., Mask]] = {
    "union": masks.union,
    "intersection": masks.intersection,
    "difference": masks.difference,
    "complement": masks.complement,
}
"""One mask of the masks of several tickets (of one, for the complement)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What one or more runs give: a mask, values, or both; None where it is not asked for.

    ``start`` is what survivors start from, ``dense`` the unmasked values of the same
    kind, which controls of the mask start from. ``cost``: the updates spent on them;
    ``final``: whether the values are trained ones.
    """

    name: str
    mask: Mask | None
    start: TrainState | None
    dense: TrainState | None
    cost: int
    final: bool = False

    @property
    def digests(self) -> dict[str, Json]:
        """What of it enters a run_id: contents, wherever they were found."""
        found: dict[str, Json] = {"final": True} if self.final else {}
        if self.mask is not None:
            found["mask"] = tensor_digest(self.mask)
        if self.start is not None:
            found["start"] = state_digest(self.start)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Import:
    """A source fitted to a network: the mask covers its prunable layers, states all it has.

    A mask of whole units covers their biases and norms too. ``redrawn`` are the
    parameters of an output layer that did not fit: this run's own theta_0 gives
    them, and all of it is kept (but for what reads units that are pruned).
    """

    name: str
    mask: Mask
    start: TrainState | None
    dense: TrainState | None
    redrawn: tuple[str, ...]
    cost: int


def read_source(
    paths: Sequence[str],
    store: Path,
    *,
    start: str = "rewound",
    mask: bool = True,
    weights: bool = True,
    combine: str | None = None,
    start_from: str | None = None,
) -> Source:
    """The mask and the values of a stored ticket.

    ``start``: ``init`` is theta_0 of the source's dense network; ``rewound`` the
    dense state that the ticket was rewound to, theta_k; ``end`` where the ticket
    ended (then controls of the mask start from where the dense network ended).
    ``combine`` makes one mask of those of several ``paths``; then ``start_from`` is the
    ticket that gives the values, and the cost is that of all searches together.
    ValueError, naming the option, where the store does not have it.
    """
    tickets = [_Found.at(path, store, "source") for path in paths]
    name, giver = tickets[0].name, tickets[0]
    if combine is not None:
        name = f"{combine} of {' '.join(t.name for t in tickets)}"
    if start_from is not None:
        giver = _Found.at(start_from, store, "start_from")
        name = f"{name}, start from {giver.name}"
    values = giver.values(start) if weights else None
    spent = sum(t.reference.search_steps for t in tickets) if mask else 0
    return Source(
        name=name,
        mask=_mask(tickets, start, combine) if mask else None,
        start=values.start if values else None,
        dense=values.dense if values else None,
        cost=max(spent, values.cost if values else 0),
        final=weights and start == "end",
    )


def _mask(tickets: Sequence[_Found], start: str, combine: str | None) -> Mask:
    own = [t.mask(start) for t in tickets]
    if combine is None:
        return own[0]
    try:
        combined = COMBINATIONS[combine](*own)
    except ValueError as error:
        raise ValueError(f"source: {error}") from None
    if masks.remaining(combined) == 0:
        raise ValueError(
            f"combine: got {combine!r}, which keeps no weight of "
            f"{', '.join(t.name for t in tickets)}, allowed: a combination that keeps some"
        )
    return combined


@dataclass(frozen=True, kw_only=True, eq=False)
class _Values:
    start: TrainState
    dense: TrainState
    cost: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """A ticket in a store, its place in a run and that run's dense network of its seed."""

    path: str
    option: str
    place: Place
    reference: Reference

    @classmethod
    def at(cls, path: str, store: Path, option: str) -> _Found:
        allowed = "allowed: a ticket of a run, such as RUN/seed_000/ticket/level_07"
        try:
            place = locate(path, store)
        except FileNotFoundError:
            raise ValueError(
                f"{option}: got {path!r}, where nothing is stored, {allowed} (RUN: a run's folder, "
                f"or a unique run_id prefix in {store})"
            ) from None
        if place.reference is None:
            raise ValueError(f"{option}: got {path!r}, which names no run, {allowed}")
        return cls(path=path, option=option, place=place, reference=place.reference)

    @property
    def name(self) -> str:
        """For display."""
        r = self.reference
        return f"{r.run_id[:8]}/seed_{r.seed:03d}/{r.variant}/level_{r.level:02d}"

    def mask(self, start: str) -> Mask:
        """The mask that goes with a start (they differ only where a training changed it)."""
        return self._stored().mask("end" if start == "end" else "start")

    def values(self, start: str) -> _Values:
        stored, dense = self._stored(), self._dense()
        try:
            if start == "end":
                if stored.status == "diverged":
                    raise ValueError(
                        f"start: got 'end' of {self.path!r}, which diverged, allowed: init, rewound"
                    )
                spent = self.reference.search_steps + int(stored.done["updates"])
                return _Values(
                    start=_plain(stored.state("end")), dense=_plain(dense.state("end")), cost=spent
                )
            theta = _plain(dense.state("start")) if start == "init" else _rewound(stored, dense)
        except KeyError as error:
            raise ValueError(
                f"start: got {start!r}, allowed: a state that {self.path!r} still has "
                f"({error.args[0]})"
            ) from None
        if theta is None:
            raise ValueError(
                f"start: got 'rewound', but {self.path!r} was rewound to no stored state of its "
                "run's dense network, allowed: init, end"
            )
        return _Values(start=theta, dense=theta, cost=theta.step)

    def _stored(self) -> Stored:
        try:
            return self.place.stored()
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.option}: got {self.path!r}, allowed: a ticket in a store ({error})"
            ) from None

    def _dense(self) -> Stored:
        run = RunFolder(self.place.store.root, self.reference.run_id)
        file = run.file(self.reference.seed, TICKET, 0, 0)
        found = self.place.store.get(read_reference(file).training) if file.exists() else None
        if found is None:
            raise ValueError(
                f"{self.option}: got {self.path!r}, allowed: a ticket whose dense network "
                f"is stored (no {file})"
            )
        return found


def _rewound(stored: Stored, dense: Stored) -> TrainState | None:
    """The dense network's state whose survivors are what the ticket started from."""
    mask, wanted = stored.mask("start"), stored.done["digests"]["start"]
    fill = stored.fill()
    for when in ("start", *sorted((k for k in dense.kept() if k.isdigit()), key=int)):
        state = dense.state(when)
        for form in (_plain(state), state):
            if state_digest(masks.apply_state(form, mask, fill)) == wanted:
                return _plain(state)
    return None


def _plain(state: TrainState) -> TrainState:
    """Without optimizer slots: they belong to the source's optimizer."""
    return dataclasses.replace(state, optimizer=None)


def fit(source: Source, *, layers: Mapping[str, str], theta: TrainState) -> Import:
    """The source on a network with these prunable ``layers`` and this theta_0.

    Everything has to be there under the same name with the same shape, but for
    the output layer: where it does not fit (other classes, another head) it is
    taken from ``theta`` and stays whole. Raises ValueError that names all layers
    that do not fit.
    """
    own, given, wrong = _shapes(_tensors(theta)), dict[str, Shape](), dict[str, None]()
    values = None if source.start is None else _tensors(source.start)
    masked = list(dict.fromkeys([*layers, *(n for n in source.mask or {} if n in own)]))
    for tensors, names in ((source.mask, masked), (values, list(own))):
        if tensors is not None:
            shapes = _shapes(tensors)
            given |= shapes
            wrong |= {n: None for n in names if shapes.get(n) != own[n]}
    (output,) = (_module(n) for n, kind in layers.items() if kind == "output")
    head = tuple(n for n in own if _module(n) == output)
    redrawn = head if wrong.keys() & set(head) else ()
    extra = [n for n in given if n not in own]
    if not set(head) & given.keys() and len({_module(n) for n in extra}) == 1:
        # The source's output layer goes by another name.
        extra = []
    bad = [n for n in wrong if n not in redrawn] + extra
    if bad:
        raise ValueError(
            f"source: got {source.name}, which does not fit this network at "
            + ", ".join(f"{n} ({_shape(given.get(n))} for {_shape(own.get(n))})" for n in bad)
            + ", allowed: equal names and shapes, but for the output layer"
        )
    return Import(
        name=source.name,
        mask={
            n: torch.ones(own[n], dtype=torch.bool)
            if source.mask is None or n in redrawn
            else source.mask[n]
            for n in masked
        },
        start=_redrawn(source.start, theta, redrawn),
        dense=_redrawn(source.dense, theta, redrawn),
        redrawn=redrawn,
        cost=source.cost,
    )


def of_units(own: Import, every: Grain, free: Grain, layers: Collection[str]) -> Import:
    """The import with its mask as one of whole units of this network.

    ``every`` are the units of all ``layers``, ``free`` those that may be pruned:
    what is excluded here comes back whole. ValueError, naming where, for a mask
    that is not of such units.
    """
    full = {n: torch.ones_like(own.mask[n]) for n in layers}
    _check_units(own, every.expand(every.alive(own.mask), full))
    mask = free.expand(free.alive(own.mask), full)
    if free.fixed:
        weight = {n: m.double() for n, m in free.alive(mask).items()}
        _check_units(dataclasses.replace(own, mask=mask), free.draw(weight, mask))
    return dataclasses.replace(own, mask=mask)


def _check_units(own: Import, units: Mask) -> None:
    """What only one of the masks covers is whole in the other; a re-drawn layer may be anything."""
    odd = []
    for name in {**own.mask, **units}:
        a, b = own.mask.get(name), units.get(name)
        whole = torch.ones_like(a if a is not None else units[name])
        same = torch.equal(whole if a is None else a, whole if b is None else b)
        if name not in own.redrawn and not same:
            odd.append(name)
    if odd:
        more = f" and {len(odd) - 3} more" if len(odd) > 3 else ""
        raise ValueError(
            f"source: got {own.name}, whose mask is not of this run's units at "
            f"{', '.join(odd[:3])}{more}, allowed: a ticket that was found with this granularity"
        )


def _shapes(tensors: Weights) -> dict[str, Shape]:
    return {n: tuple(t.shape) for n, t in tensors.items()}


def _tensors(state: TrainState) -> Weights:
    return {**state.weights, **state.buffers}


def _redrawn(
    state: TrainState | None, theta: TrainState, names: Collection[str]
) -> TrainState | None:
    if state is None:
        return None
    weights = {n: theta.weights[n] if n in names else state.weights[n] for n in theta.weights}
    return dataclasses.replace(state, weights=weights)


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(shape: Shape | None) -> str:
    return "nothing" if shape is None else str(list(shape))
