"""The key ``ticket``: what its values mean, what does not go with them, and what they name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lth.config import Transfer
from lth.spec import Json
from lth.store.stored import DamagedError
from lth.transfer import COMBINATIONS, STARTS, Source, read_source


def faults(root: Mapping[str, Any], components: Mapping[str, Any]) -> list[str]:
    """What does not go with a ticket from another run, or with having none."""
    ticket, default = root["ticket"], dataclasses.asdict(Transfer())
    if ticket["source"] is None:
        return [
            f"ticket.{k}: got {v!r}, allowed: "
            f"{'null' if default[k] is None else repr(default[k])} (without ticket.source)"
            for k, v in ticket.items()
            if v != default[k]
        ]
    found: list[str] = []

    def need(ok: bool, key: str, value: Any, allowed: str) -> None:
        if not ok:
            got = "nothing" if value is None else repr(value)
            found.append(f"{key}: got {got}, allowed: {allowed} (with ticket.source)")

    combine, mask, weights = ticket["combine"], ticket["mask"], ticket["weights"]
    need(combine in (None, *COMBINATIONS), "ticket.combine", combine, ", ".join(COMBINATIONS))
    if found:  # what else is needed depends on it
        return found
    need(combine is None or mask, "ticket.mask", mask, "true (masks are combined)")
    several, example = combine not in (None, "complement"), "RUN/seed_000/ticket/level_07"
    what = "a list of two tickets or more such as" if several else "a ticket such as"
    need(
        _for_seeds(ticket["source"], root["seeds"], lambda s: _tickets(s, several)),
        "ticket.source",
        ticket["source"],
        f"{what} {example}, or a list of {len(root['seeds'])} of those, one for each seed",
    )
    giver, needed = ticket["start_from"], combine is not None and weights
    need(
        _for_seeds(giver, root["seeds"], lambda s: isinstance(s, str)) if needed else giver is None,
        "ticket.start_from",
        giver,
        f"the ticket that gives the values, {example}, or one for each seed"
        if needed
        else "null, where masks are not combined or no values are taken",
    )
    need(ticket["start"] in STARTS, "ticket.start", ticket["start"], ", ".join(STARTS))
    need(mask or weights, "ticket.mask", mask, "true, or ticket.weights=true")
    need(
        weights or ticket["start"] in (default["start"], "end"),
        "ticket.start",
        ticket["start"],
        f"{default['start']}, or end for the mask at the end, where only the mask is taken",
    )
    need(root["levels"] == 1, "levels", root["levels"], "1: level 0 is dense, level 1 the ticket")
    for key, usual in (("score_steps", 1), ("prune_at", "end")):
        need(root[key] == usual, key, root[key], f"{usual}: nothing is pruned")
    need(components["finder"] is None, "finder", root["finder"], "null: nothing is searched")
    cell = {"weights": "rewound", "statistics": "same", "optimizer": "fresh"}
    for option, usual in cell.items() if weights else ():
        value = getattr(components["rewind"], option, usual)
        need(value == usual, f"rewind.{option}", value, f"{usual}: the source gives the values")
    return found


def read(root: Mapping[str, Any], store: Path, faults: list[str]) -> dict[int, Source]:
    """What each seed is given by other runs; what seeds share is read once."""
    ticket = root["ticket"]
    if ticket["source"] is None:
        return {}
    given: dict[int, tuple[tuple[str, ...], str | None]] = {}
    for seed in root["seeds"]:
        own, giver = (_of_seed(ticket[k], seed) for k in ("source", "start_from"))
        given[seed] = (tuple([own] if isinstance(own, str) else own), giver)
    options = {k: ticket[k] for k in ("start", "mask", "weights", "combine")}
    try:
        found = {g: read_source(g[0], store, start_from=g[1], **options) for g in given.values()}
    except ValueError as error:
        faults.append(f"ticket.{error}")
        return {}
    except DamagedError as damage:
        faults.append(f"ticket.source: damaged: {damage}")
        return {}
    return {seed: found[own] for seed, own in given.items()}


def by_seed(ticket: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Lists as what they mean: a choice by seed, but for tickets to be combined."""

    def plain(value: Any, *, together: bool = False) -> Any:
        if isinstance(value, Mapping):
            # JSON, in which stored configurations are, has no other keys than texts.
            return {int(k) if str(k).isdigit() else k: v for k, v in value.items()}
        if not isinstance(value, list) or (together and all(isinstance(v, str) for v in value)):
            return value
        if len(value) == 1:
            return value[0]
        return dict(zip(seeds, value, strict=True)) if len(value) == len(seeds) else value

    several = ticket.get("combine") not in (None, "complement")
    source = plain(ticket.get("source"), together=several)
    return {
        **dataclasses.asdict(Transfer()),
        **ticket,
        "source": source,
        "start_from": plain(ticket.get("start_from")),
    }


def _of_seed(value: Any, seed: int) -> Any:
    return value[seed] if isinstance(value, Mapping) else value


def _for_seeds(value: Any, seeds: Sequence[int], good: Callable[[Any], bool]) -> bool:
    """Whether a value for all seeds is good, or one for each seed."""
    if not isinstance(value, Mapping):
        return good(value)
    return set(seeds) <= value.keys() and all(map(good, value.values()))


def _tickets(value: Any, several: bool) -> bool:
    """Whether this names one ticket, or ``several``."""
    if isinstance(value, str):
        return not several
    good = isinstance(value, list) and all(isinstance(v, str) for v in value)
    return good and (len(value) >= 2 if several else len(value) == 1)


def digests(ticket: Mapping[str, Any], sources: Mapping[int, Source]) -> Json:
    """The digests of what is brought in: one for all seeds, or by seed."""
    if not sources:
        return None
    if not any(isinstance(ticket[k], Mapping) for k in ("source", "start_from")):
        return next(iter(sources.values())).digests
    return {str(seed): source.digests for seed, source in sources.items()}
