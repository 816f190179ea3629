"""Chains: together in one process, apart in several, rows before what they are needed for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from lth.chains import Chain, advance
from lth.complete import Watch
from lth.level import Planned, Row


def link(seed: int, level: int, variants: Sequence[str] = ("ticket", "control")) -> Planned:
    planned = Planned({}, seed=seed, level=level)
    for variant in variants:
        training: Any = SimpleNamespace(id=f"{seed}{level}{variant[0]}")
        planned.plan(training, Watch(), variant)
    return planned


class Fake:
    """A workshop that notes what it is asked for; ``held`` are Trainings that others are at."""

    def __init__(self, processes: int, held: set[str] = frozenset()) -> None:  # type: ignore[assignment]
        self.processes = processes
        self.held = set(held)
        self.log: list[str] = []

    def attempt(self, trainings: Any, watches: Any, *, parts: int = 1) -> list[Any] | None:
        ids = [t.id for t in trainings]
        assert set(watches) == set(ids)
        if self.held & set(ids):
            return None
        self.log.append(f"{'+'.join(ids)}/{parts}")
        return [f"stored {i}" for i in ids]

    def complete(self, trainings: Any, watches: Any) -> list[Any]:
        ids = [t.id for t in trainings]
        self.log.append(f"wait {'+'.join(ids)}")
        self.held -= set(ids)
        return [f"stored {i}" for i in ids]


def chain(seed: int, levels: int, log: list[str]) -> Chain:
    for level in range(levels):
        log.append(f"plan {seed}{level}")
        rows = yield link(seed, level)
        assert [r.stored for r in rows] == [f"stored {seed}{level}{v}" for v in "tc"]
        yield rows


def given(rows: list[Row]) -> list[str]:
    return [f"{r.seed}{r.level}{r.variant[0]}" for r in rows]


def test_one_process_completes_all_chains_together() -> None:
    fake = Fake(1)
    found = [given(r) for r in advance([chain(s, 2, fake.log) for s in (0, 1)], fake)]  # type: ignore[arg-type]
    assert found == [["00t", "00c", "10t", "10c"], ["01t", "01c", "11t", "11c"]]
    assert [x for x in fake.log if "plan" not in x] == ["00t+00c+10t+10c/1", "01t+01c+11t+11c/1"]


def test_a_chain_that_ends_leaves_the_others() -> None:
    fake = Fake(1)
    found = [given(r) for r in advance([chain(0, 1, []), chain(1, 3, [])], fake)]  # type: ignore[arg-type]
    assert found == [["00t", "00c", "10t", "10c"], ["11t", "11c"], ["12t", "12c"]]
    assert list(advance([], fake)) == []  # type: ignore[arg-type]
    assert list(advance([chain(0, 0, [])], fake)) == []  # type: ignore[arg-type]


def test_several_processes_take_chains_apart_and_pass_over_those_of_others() -> None:
    fake = Fake(2, held={"01t"})
    steps = advance([chain(s, 3, []) for s in (0, 1)], fake)  # type: ignore[arg-type]
    found = [given(next(steps)) for _ in range(4)]
    # Seed 0 is held at level 1: seed 1 goes on without it.
    assert found == [["00t", "00c"], ["10t", "10c"], ["11t", "11c"], ["12t", "12c"]]
    assert fake.log == ["00t+00c/1", "10t+10c/1", "11t+11c/1", "12t+12c/1"]
    # With nothing else left it waits, and goes on from there.
    assert [given(rows) for rows in steps] == [["01t", "01c"], ["02t", "02c"]]
    assert fake.log[4:] == ["wait 01t+01c", "02t+02c/1"]


def test_more_processes_than_chains_divide_a_link() -> None:
    fake = Fake(5)
    list(advance([chain(s, 1, []) for s in (0, 1)], fake))  # type: ignore[arg-type]
    assert fake.log == ["00t+00c/3", "10t+10c/3"]


def test_rows_are_given_before_the_next_link_is_planned() -> None:
    """Planning may train something; what is stored should be shown before that."""
    for processes in (1, 2):
        fake = Fake(processes)
        for rows in advance([chain(0, 2, fake.log)], fake):  # type: ignore[arg-type]
            fake.log.append(f"rows {given(rows)[0]}")
        own = [x for x in fake.log if not x.endswith(("/1", "/2"))]
        assert own == ["plan 00", "rows 00t", "plan 01", "rows 01t"]


def test_a_chain_may_ask_several_times_before_it_gives_rows() -> None:
    def finding(seed: int) -> Iterator[Any]:
        first = yield link(seed, 1, ["found"])
        second = yield link(seed, 1)
        yield first + second

    fake = Fake(1)
    found = [given(r) for r in advance([finding(0), finding(1)], fake)]  # type: ignore
    assert found == [["01f", "01t", "01c", "11f", "11t", "11c"]]
    assert fake.log == ["01f+11f/1", "01t+01c+11t+11c/1"]
