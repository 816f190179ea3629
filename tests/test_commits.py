"""Commits in the background: in order, under their locks, errors first."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import Any

import pytest

from lth.commits import Commits
from lth.store.memory import MemoryStore
from lth.training import Training


def test_commits_keep_their_order_and_are_told_of_by_the_caller() -> None:
    order: list[Any] = []
    with Commits() as commits:
        for i in range(5):
            commits.add(lambda i=i: order.append(i) or i, then=lambda s: order.append((s, me())))
    assert [o for o in order if isinstance(o, int)] == list(range(5))
    assert [o for o in order if not isinstance(o, int)] == [(i, me()) for i in range(5)]


def me() -> int:
    return threading.get_ident()


def test_locks_are_held_until_what_is_queued_is_committed() -> None:
    gate, open_locks = threading.Event(), []
    with Commits() as commits:
        locks = ExitStack()
        locks.callback(open_locks.append, True)
        commits.add(lambda: gate.wait(10), then=lambda s: None)
        commits.release(locks.pop_all())
        assert open_locks == []
        gate.set()
        commits.finish()
    assert open_locks == [True]


def test_an_error_is_raised_before_the_next_commit_and_nothing_follows_it() -> None:
    committed: list[int] = []

    def full() -> None:
        raise OSError("disk full")

    commits = Commits()
    commits.add(lambda: committed.append(1), then=lambda s: None)
    commits.add(full, then=lambda s: None)
    with pytest.raises(OSError, match="disk full"):
        commits.finish()
    commits.add(lambda: committed.append(2), then=lambda s: None)
    with pytest.raises(OSError, match="disk full"):
        commits.finish()
    commits.wait()
    assert committed == [1]


def test_a_result_is_stored_while_the_next_group_trains(
    make_search: Any, make_workshop: Any
) -> None:
    """The first group's commit waits for the second group's training, and ends none the less."""
    search = make_search(seeds=(0, 1))
    first, second = search.dense(0), search.dense(1)
    training_second = threading.Event()

    class Waiting(MemoryStore):
        def put(self, result: Any, **observed: Any) -> Any:
            if result.training.id == first.id:
                assert training_second.wait(10)
            return super().put(result, **observed)

    class Tell:
        def steps(self, training: Training) -> list[int]:
            return [1] if training.id == second.id else []

        def __call__(self, moment: Any, record: Any) -> None:
            training_second.set()

    workshop = make_workshop(store=Waiting(), observe=lambda t: [Tell()])
    stored = workshop.complete([first, second])
    assert [s.id for s in stored] == [first.id, second.id]


def test_a_write_error_ends_the_run(make_search: Any, make_workshop: Any) -> None:
    class Full(MemoryStore):
        def put(self, result: Any, **observed: Any) -> Any:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        make_workshop(store=Full()).complete([make_search().dense(0)])
