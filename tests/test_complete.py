"""Completing Trainings: once each, resumed from checkpoints, replayed, repaired."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lth.complete import ReplayError, Watch, Workshop, shares
from lth.engine.auto import Auto
from lth.engine.break_even import BreakEvens
from lth.engine.mlp import MLP
from lth.event.checkpoint import Interval
from lth.event.gradient_norm import GradientNorm
from lth.model.lenet_300_100 import LeNet300100
from lth.protocol import Moment, Record
from lth.runtime import Runtime
from lth.store.files import FileStore
from lth.store.memory import MemoryStore
from lth.training import Training


class Trained(list[str]):
    def __call__(self, training: Training, stored: Any) -> None:
        self.append(training.id)


def lasting(stored: Any) -> Any:
    return {k: v for k, v in stored.done.items() if k != "seconds"}, repr(stored.metrics())


def test_each_training_is_trained_once(make_search: Any, make_workshop: Any) -> None:
    trained = Trained()
    workshop = make_workshop(committed=trained)
    dense = make_search().dense(0)
    first = workshop.complete([dense, dense])
    again = workshop.complete([dense])
    assert trained == [dense.id]
    assert first[0].done == first[1].done == again[0].done


class DieAt:
    """Stands for a kill: raises at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def steps(self, training: Training) -> list[int]:
        return [self.step]

    def __call__(self, moment: Moment, record: Record) -> None:
        raise KeyboardInterrupt


@pytest.mark.parametrize("step", [1, 4, 7, 8, 13])
@pytest.mark.parametrize("interval", ["1it", "3it", "never"])
def test_killed_inside_a_training_it_ends_bit_for_bit_the_same(
    step: int, interval: str, make_search: Any, make_workshop: Any
) -> None:
    dense = make_search().dense(0)
    watch = Watch(
        keep=frozenset({3, 9}),
        keep_early_stop=True,
        keep_optimizer=True,
        probes={"gradient_norm": GradientNorm()},
    )
    (quiet,) = make_workshop().complete([dense], watch)
    store, every = MemoryStore(), Interval.parse(interval)
    dying = make_workshop(store=store, checkpoint=every, observe=lambda t: [DieAt(step)])
    with pytest.raises(KeyboardInterrupt):
        dying.complete([dense], watch)
    (resumed,) = make_workshop(store=store, checkpoint=every).complete([dense], watch)
    assert lasting(resumed) == lasting(quiet)


def test_a_checkpoint_of_other_numerics_is_not_gone_on_from(
    make_search: Any, make_workshop: Any
) -> None:
    dense, store = make_search().dense(0), MemoryStore()
    every = Interval.parse("2it")
    dying = make_workshop(store=store, checkpoint=every, observe=lambda t: [DieAt(7)])
    with pytest.raises(KeyboardInterrupt):
        dying.complete([dense])
    seen: list[int] = []

    class First(DieAt):
        def steps(self, training: Training) -> list[int]:
            return [1]

        def __call__(self, moment: Moment, record: Record) -> None:
            seen.append(moment.step)

    two = Runtime(device="cpu", num_threads=2)
    make_workshop(store=store, runtime=two, observe=lambda t: [First(1)]).complete([dense])
    assert seen == [1]


@pytest.mark.parametrize(
    "watch",
    [
        Watch(keep=frozenset({3})),
        Watch(keep=frozenset({3}), keep_optimizer=True),
        Watch(keep_early_stop=True),
        Watch(test_curve=True),
        Watch(probes={"gradient_norm": GradientNorm()}),
    ],
    ids=["state", "slots", "early_stop", "test_curve", "probe"],
)
def test_what_was_not_recorded_is_replayed_bit_for_bit(
    watch: Watch, make_search: Any, make_workshop: Any
) -> None:
    dense, store = make_search().dense(0), MemoryStore()
    make_workshop(store=store).complete([dense])
    trained = Trained()
    (later,) = make_workshop(store=store, committed=trained).complete([dense], watch)
    (at_once,) = make_workshop().complete([dense], watch)
    assert lasting(later) == lasting(at_once)
    assert trained == []


@pytest.mark.parametrize("first", [0, 2])
def test_where_a_training_began_is_kept_without_a_replay(
    first: int, make_search: Any, make_workshop: Any
) -> None:
    dense, watch = make_search().dense(0), Watch(keep=frozenset({first}))
    other = {n: w + 1 for n, w in dense.start.weights.items()}
    mask = {n: torch.rand(m.shape) < 0.5 for n, m in dense.mask.items()}
    ticket = dense.replace(first_step=first, mask=mask, fill={n: other[n] for n in mask})
    store, said = MemoryStore(), list[str]()
    make_workshop(store=store).complete([ticket])
    # Even under other numerics: nothing is computed.
    two = Runtime(device="cpu", num_threads=2)
    workshop = make_workshop(store=store, runtime=two, say=said.append)
    (later,) = workshop.complete([ticket], watch)
    (at_once,) = make_workshop().complete([ticket], watch)
    assert lasting(later) == lasting(at_once) and said == []
    state = later.state(first)
    assert state.step == first and state.optimizer is None
    for name, value in ticket.start.weights.items():
        assert torch.equal(state.weights[name], value)


def test_a_replay_under_other_numerics_is_refused(make_search: Any, make_workshop: Any) -> None:
    dense, store = make_search().dense(0), MemoryStore()
    make_workshop(store=store).complete([dense])
    two = make_workshop(store=store, runtime=Runtime(device="cpu", num_threads=2))
    with pytest.raises(ReplayError, match="num_threads 1 then, 2 now"):
        two.complete([dense], Watch(keep=frozenset({3})))
    # What needs no replay is fine.
    assert two.complete([dense])


@pytest.mark.parametrize("now", [0.0, "measured"])
@pytest.mark.parametrize("kind", [MLP, Auto])
def test_a_replay_repeats_the_break_evens_of_then(
    kind: Any, now: Any, make_search: Any, make_workshop: Any
) -> None:
    dense, store = make_search(model=LeNet300100).dense(0), MemoryStore()
    draw = torch.Generator().manual_seed(0)
    mask = {n: torch.rand(m.shape, generator=draw) < 0.3 for n, m in dense.mask.items()}
    ticket, size = dense.replace(mask=mask), dense.task.batch_size
    shapes = [m.shape for m in mask.values()]
    then = BreakEvens({f"{rows}x{columns}, batch {size}": 1.0 for rows, columns in shapes})
    watch = Watch(keep=frozenset({3}))
    make_workshop(store=store, engine=kind(sparse_below=then)).complete([ticket])
    (later,) = make_workshop(store=store, engine=kind(sparse_below=now)).complete([ticket], watch)
    (at_once,) = make_workshop(engine=kind(sparse_below=then)).complete([ticket], watch)
    assert lasting(later) == lasting(at_once)


def test_damage_is_named_and_repaired(tmp_path: Any, make_search: Any) -> None:
    store, said = FileStore(tmp_path), list[str]()
    workshop = Workshop(store=store, runtime=Runtime(device="cpu"), say=said.append)
    dense = make_search().dense(0)
    (good,) = workshop.complete([dense])
    path = store.folder(dense.id).path / "end.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    (mended,) = workshop.complete([dense])
    assert lasting(mended) == lasting(good)
    (line,) = said
    assert str(path) in line
    assert "recomputed" in line


def test_a_level_is_divided_evenly_among_processes() -> None:
    """Nine among two are 5 and 4; two among three are 1 and 1."""
    nine: Any = list(range(9))
    assert [list(part) for part in shares(nine, 2)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]]
    assert [list(part) for part in shares(nine[:2], 3)] == [[0], [1]]
    assert [list(part) for part in shares(nine, 1)] == [nine] and shares([], 2) == []
