"""The search over levels: masks, parents, streams, costs, and one dense network per seed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lth import mask as masks
from lth.ahead import expected
from lth.allocation.global_top import GlobalTop
from lth.allocation.layerwise import Layerwise
from lth.baseline.random_mask import RandomMask
from lth.baseline.random_reinit import RandomReinit
from lth.baseline.same_mask import SameMask
from lth.baseline.sham import Sham
from lth.baseline.shuffled_mask import ShuffledMask
from lth.baseline.sign_reinit import SignReinit
from lth.complete import Watch
from lth.criterion.random import random
from lth.engine.batches import Batches
from lth.engine.loop import Loop
from lth.level import Row
from lth.protocol import Event, Materials, Restart, Result, Resume
from lth.rewind.matrix import Matrix
from lth.runtime import Runtime
from lth.schedule.geometric import Geometric
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets
from lth.search import Search
from lth.store.memory import MemoryStore
from lth.training import Training

K, T = 5, 14


def scheduled(step: int) -> float:
    return 0.1 * ((step + 1) / 10 if step < 10 else 0.5)


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def ids(rows: Sequence[Row]) -> list[str]:
    return [r.training.id for r in rows]


def counts(mask: Mapping[str, Tensor]) -> dict[str, int]:
    return {n.removesuffix(".weight"): int(m.sum()) for n, m in mask.items()}


def largest(
    weights: Mapping[str, Tensor], mask: Mapping[str, Tensor], keep: Mapping[str, int]
) -> dict[str, Tensor]:
    """The ``keep`` largest magnitudes of each layer among its survivors, by topk."""
    result = {}
    for name, own in mask.items():
        scores = torch.where(own, weights[name].abs(), torch.tensor(-1.0)).flatten()
        chosen = torch.zeros(own.numel(), dtype=torch.bool)
        chosen[scores.topk(keep[name.removesuffix(".weight")]).indices] = True
        result[name] = chosen.reshape(own.shape)
    return result


@dataclasses.dataclass
class Counting:
    """The reference engine with a log of (Training, the step it was run to)."""

    log: list[tuple[Training, int]] = dataclasses.field(default_factory=list)
    loop: Loop = dataclasses.field(default_factory=Loop)

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        return self.loop.groups(cohort, runtime)

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        return self.loop.numerics(runtime, training)

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        for result in self.loop.train(group, events=events, resume=resume, runtime=runtime):
            self.log.append((result.training, result.end.step))
            yield result


class Puts(MemoryStore):
    """A memory store that counts how often a Training is put."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []

    def put(self, result: Result, *, observed: Mapping[str, Any]) -> Any:
        self.puts.append(result.training.id)
        return super().put(result, observed=observed)


# Levels and masks.


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("allocation", [Layerwise(), GlobalTop()])
def test_masks_nest_and_are_what_is_stored(
    allocation: Any, criterion: str, make_search: Any, make_workshop: Any
) -> None:
    changes = {"criterion": random} if criterion == "random" else {}
    search = make_search(levels=4, allocation=allocation, **changes)
    previous = masks.full(search.theta_0(0).weights, search.layers)
    for level, (row,) in enumerate(search.run(make_workshop())):
        mask = row.stored.mask()
        assert masks.nested(mask, previous)
        assert same(mask, dict(row.training.mask))
        assert (row.level, row.parent_level) == (level, level - 1 if level else None)
        if level:
            assert masks.remaining(mask) < masks.remaining(previous)
        previous = mask


def test_levels_do_not_depend_on_how_many_there_are(make_search: Any, make_workshop: Any) -> None:
    baselines = {"reinit": RandomReinit(), "shuffled_mask": ShuffledMask(draws=2)}
    engine, store = Counting(), MemoryStore()
    workshop = make_workshop(store, engine=engine)
    few = list(make_search(levels=1, baselines=baselines, seeds=(0, 1)).run(workshop))
    assert len(engine.log) == 2 + 2 * 4
    many = list(make_search(levels=3, baselines=baselines, seeds=(0, 1)).run(workshop))
    assert [ids(rows) for rows in many[:2]] == [ids(rows) for rows in few]
    assert len(engine.log) == 2 + 3 * 2 * 4, "only what is new is trained"
    alone = list(make_search(levels=3, baselines=baselines, seeds=(1,)).run(make_workshop()))
    assert [ids(r) for r in alone] == [
        [r.training.id for r in rows if r.seed == 1] for rows in many
    ]
    again = [row for rows in make_search(levels=0).run(workshop) for row in rows]
    assert ids(again) == ids(many[0][:1])


@pytest.mark.parametrize("baselines", [{}, {"sham": Sham(), "reinit": RandomReinit(draws=3)}])
def test_what_is_expected_of_a_level_is_what_it_has(
    baselines: dict[str, Any], make_search: Any, make_workshop: Any
) -> None:
    search = make_search(baselines=baselines, seeds=(0, 1), baseline_levels=frozenset({2}))
    for level, rows in enumerate(search.run(make_workshop())):
        ahead = [(r.seed, r.variant, r.draw) for r in expected(search) if r.level == level]
        assert [(r.seed, r.variant, r.draw) for r in rows] == ahead
        assert search.has_controls(level) == (level == 2)
        controls = {r.variant for r in rows} - {"ticket"}
        assert controls == (set(baselines) if level == 2 else set())


def test_one_shot_prunes_every_level_from_the_dense_network(
    make_search: Any, make_workshop: Any, train_plainly: Any
) -> None:
    search = make_search(levels=3, schedule=OneShot(rate=0.4))
    (dense,), *levels = search.run(make_workshop())
    end = train_plainly(dense.training, scheduled).weights
    expected = [
        {"conv1": 22, "conv2": 130, "fc": 14},
        {"conv1": 13, "conv2": 78, "fc": 12},
        {"conv1": 8, "conv2": 47, "fc": 9},
    ]
    for (row,), keep in zip(levels, expected, strict=True):
        assert row.parent_level == 0
        assert counts(row.training.mask) == keep
        assert same(dict(row.training.mask), largest(end, dense.training.mask, keep))
    iterative = [r for rows in make_search(levels=3).run(make_workshop()) for r in rows][1:]
    for row, keep in zip(iterative, expected, strict=True):
        for layer, count in counts(row.training.mask).items():
            assert abs(count - keep[layer]) <= 1, "the ladder's counts within rounding"


@pytest.mark.parametrize("exclude", [(), ("fc.weight",)])
@pytest.mark.parametrize("allocation", [Layerwise(), GlobalTop()])
def test_target_densities_are_hit_exactly(
    allocation: Any, exclude: tuple[str, ...], make_search: Any, make_workshop: Any
) -> None:
    densities = [0.613, 0.25, 0.111]
    search = make_search(
        levels=3, allocation=allocation, schedule=Targets(densities=densities), exclude=exclude
    )
    rows = [row for rows in search.run(make_workshop()) for row in rows][1:]
    kept = [masks.remaining(row.training.mask) for row in rows]
    assert kept == [166, 68, 30]  # round(270 d)
    assert [row.stored.done["density"] for row in rows] == [k / 270 for k in kept]
    for row in rows:
        assert not exclude or counts(row.training.mask)["fc"] == 18


def test_a_density_below_the_excluded_layers_is_refused(
    make_search: Any, make_workshop: Any
) -> None:
    search = make_search(levels=1, schedule=Targets(densities=[0.05]), exclude=("fc.weight",))
    with pytest.raises(ValueError, match=r"densities: got 0.05, allowed: 0.06667 .* to 1"):
        list(search.run(make_workshop()))


def test_excluded_layers_stay_whole_and_count(make_search: Any, make_workshop: Any) -> None:
    search = make_search(exclude=["output", "conv1*"])
    *_, (row,) = search.run(make_workshop())
    assert counts(row.training.mask) == {"conv1": 36, "conv2": 78, "fc": 18}
    assert row.stored.done["density"] == (36 + 78 + 18) / 270
    with pytest.raises(ValueError, match="got 'conv9', allowed: a layer type"):
        list(make_search(exclude=["conv9"]).run(make_workshop()))


# Which state is scored.


@pytest.mark.parametrize("prune_at", ["end", "early_stop", 0, 5, 7])
@pytest.mark.parametrize("weights", ["rewound", "final"])
def test_prune_at_names_the_state_that_is_scored(
    weights: str,
    prune_at: str | int,
    make_search: Any,
    make_workshop: Any,
    tiny_task: Any,
    train_plainly: Any,
) -> None:
    """Level 1 scores the dense network, level 2 the first ticket, each at ``prune_at``.

    Most labels are random, so that validation loss is not lowest at the end.
    """
    schedule = "restart" if prune_at == 0 else "continue"
    rewind = Matrix(weights=weights, schedule=schedule)
    tasks = {0: tiny_task(random_labels=0.7)}
    search = make_search(prune_at=prune_at, rewind=rewind, eval_every=1, tasks=tasks)
    rows = [row for rows in search.run(make_workshop()) for row in rows]
    keeps = [{"conv1": 22, "conv2": 130, "fc": 14}, {"conv1": 13, "conv2": 78, "fc": 11}]
    for parent, child, keep in zip(rows, rows[1:], keeps, strict=False):
        step = {"end": T, "early_stop": parent.stored.done["early_stop"]["step"]}.get(
            str(prune_at), prune_at
        )
        if prune_at == "early_stop":
            assert step < T, "else this would prove nothing"
        if step == parent.training.first_step:
            scored = parent.training.start
        else:
            scored = train_plainly(parent.training, scheduled, last_step=step)
        expected = largest(scored.weights, parent.training.mask, keep)
        assert same(dict(child.training.mask), expected)


def test_what_later_levels_need_is_kept_at_once(make_search: Any, make_workshop: Any) -> None:
    """No Training is run twice, whatever is scored and rewound, and by whichever component."""
    for changes in (
        {"prune_at": 7},
        {"prune_at": "early_stop"},
        {"rewind": Matrix(optimizer="saved"), "prune_at": 9},
        {"baselines": {"slots": SameMask(rewind=Matrix(optimizer="saved"))}, "prune_at": 7},
        {"watch": Watch(keep=frozenset({3, 11}), keep_early_stop=True)},
    ):
        engine = Counting()
        rows = list(make_search(**changes).run(make_workshop(engine=engine)))
        trained = [training.id for training, _ in engine.log]
        assert len(trained) == len(set(trained)) == sum(len(level) for level in rows)
        kept = rows[0][0].stored.kept()
        wanted = {str(K)} | {str(changes["prune_at"])} if "prune_at" in changes else {"3", "11"}
        assert kept >= wanted


# One dense network per seed.


def test_a_sweep_over_rewind_step_trains_one_dense_network_per_seed(
    make_search: Any, make_workshop: Any, train_plainly: Any
) -> None:
    steps, seeds = (5, 0, 2, 8, 11), (0, 1)
    engine, store = Counting(), Puts()
    baselines = {"sham": Sham(), "shuffled_mask": ShuffledMask()}
    searches = {k: make_search(rewind_step=k, seeds=seeds, baselines=baselines) for k in steps}
    found = {k: list(s.run(make_workshop(store, engine=engine))) for k, s in searches.items()}

    dense = {searches[0].dense(seed).id: seed for seed in seeds}
    assert {i for rows in found.values() for i in ids(rows[0])} == dense.keys()
    runs = sorted(step for training, step in engine.log if training.id in dense)
    assert runs[-2:] == [T, T] and len(runs) == 2 * len([0, 2, 8, 11])
    # A replay goes on to the next evaluation, so that its losses can be compared.
    assert runs[:-2] == [4, 4, 8, 8, 12, 12]
    assert all(store.puts.count(i) == 1 for i in dense), "replays only add states"

    everything = Watch(keep=frozenset({2, 5, 8, 11}))
    for seed in seeds:
        training = searches[0].dense(seed)
        replayed = store.get(training.id)
        (at_once,) = make_workshop().complete([training], everything)
        one_replay = make_workshop()
        one_replay.complete([training])
        (later,) = one_replay.complete([training], everything)
        assert replayed.kept() == at_once.kept() == later.kept() == {"2", "5", "8", "11"}
        assert replayed.done["digests"] == at_once.done["digests"]
        for k in (2, 5, 8, 11):
            plain = train_plainly(training, scheduled, last_step=k)
            for state in (replayed.state(k), at_once.state(k), later.state(k)):
                assert state.step == k
                assert same(state.weights, plain.weights) and same(state.buffers, plain.buffers)
    for k in steps:  # and the shared store changes no ticket
        alone = list(searches[k].run(make_workshop()))
        assert [ids(rows) for rows in alone] == [ids(rows) for rows in found[k]]
        (ticket, *_) = found[k][1]
        assert (ticket.training.first_step, ticket.training.updates) == (k, T - k)
        expected = train_plainly(searches[k].dense(0), scheduled, last_step=k) if k else None
        start = expected or searches[k].theta_0(0)
        assert same(ticket.training.start.weights, masks.apply(start.weights, ticket.training.mask))
        assert same(ticket.training.start.buffers, start.buffers)


def test_searches_that_share_a_store_find_what_they_find_alone(
    make_search: Any, make_workshop: Any
) -> None:
    """Criterion, allocation, schedule, scored state, rewinding, controls: one dense network."""
    store = MemoryStore()
    sweep: list[dict[str, Any]] = [
        {},
        {"criterion": random},
        {"allocation": GlobalTop()},
        {"schedule": OneShot(rate=0.4), "exclude": ["fc.weight"]},
        {"prune_at": 7},
        {"prune_at": "early_stop"},
        {"rewind": Matrix(optimizer="saved")},
        {"rewind": Matrix(weights="final"), "baselines": {"sham": Sham()}},
        {"order": "shared", "watch": Watch(test_curve=True)},
    ]
    dense = {}
    for changes in sweep:
        shared = list(make_search(**changes).run(make_workshop(store)))
        alone = list(make_search(**changes).run(make_workshop()))
        for mine, own in zip(shared, alone, strict=True):
            assert ids(mine) == ids(own)
            assert [r.stored.done["digests"] for r in mine] == [
                r.stored.done["digests"] for r in own
            ]
        dense |= {shared[0][0].training.id: shared[0][0].stored.done["digests"]["end"]}
    assert len(dense) == 1


def test_slots_are_replayed_where_they_were_not_kept(make_search: Any, make_workshop: Any) -> None:
    engine, store = Counting(), Puts()
    workshop = make_workshop(store, engine=engine)
    bare = list(make_search(levels=1).run(workshop))
    saved = list(make_search(levels=1, rewind=Matrix(optimizer="saved")).run(workshop))
    at_once = list(make_search(levels=1, rewind=Matrix(optimizer="saved")).run(make_workshop()))
    assert ids(bare[0]) == ids(saved[0])
    assert ids(saved[1]) == ids(at_once[1]) != ids(bare[1])
    assert [step for _, step in engine.log] == [T, T, 8, T], "one replay, not to the end"
    assert len(store.puts) == 3


def test_theta_0_is_never_changed(make_search: Any, make_workshop: Any) -> None:
    baselines = {
        "reinit": RandomReinit(),
        "reinit_dense_k": RandomReinit(origin="dense_k"),
        "shuffled_mask": ShuffledMask(),
        "random_mask": RandomMask(),
        "sign_reinit": SignReinit(),
        "same_mask": SameMask(rewind=Matrix(weights="initial", schedule="restart")),
        "sham": Sham(),
    }
    for rewind in (
        Matrix(),
        Matrix(weights="initial", statistics="other"),
        Matrix(weights="final"),
    ):
        search: Search = make_search(baselines=baselines, rewind=rewind)
        store = MemoryStore()
        levels = search.run(make_workshop(store))
        (dense,) = next(levels)
        before = dict(store.folder(dense.training.id))
        theta = {n: w.clone() for n, w in dense.training.start.weights.items()}
        rest = [row for rows in levels for row in rows]
        assert len(rest) == 2 * 8
        assert dict(store.folder(dense.training.id)) == before
        assert same(dict(dense.training.start.weights), theta)
        assert same(search.theta_0(0).weights, theta)
        assert same(dense.stored.state("start").weights, theta)
        count = "norm1.num_batches_tracked"
        assert int(dense.training.start.buffers[count]) == 0
        assert int(dense.stored.state("start").buffers[count]) == 0


# Streams and costs.


def test_order_is_new_at_every_level_or_shared(make_search: Any, make_workshop: Any) -> None:
    for order, different in (("per_level", 3), ("shared", 1)):
        search = make_search(order=order)
        rows = [row for rows in search.run(make_workshop()) for row in rows]
        for stream in ("order", "augment", "module"):
            assert len({row.training.streams[stream] for row in rows}) == different
        batches = [Batches(row.training, torch.device("cpu"))(K) for row in rows]
        assert len({tuple(y.tolist()) for _, y in batches}) == different
    first, second = (
        Batches(make_search(seeds=(s,)).dense(s), torch.device("cpu"))(0)[1] for s in (0, 1)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize("stream", ["order", "augment", "module", "init", "control"])
def test_a_stream_can_be_set_alone(stream: str, make_search: Any, make_workshop: Any) -> None:
    """And 0 is a seed: setting a stream of seed 1 to 0 gives it seed 0's numbers."""
    baselines = {"reinit": RandomReinit(), "shuffled_mask": ShuffledMask()}

    def run(**streams: int) -> list[list[Row]]:
        search = make_search(seeds=(1,), levels=1, baselines=baselines, streams=streams)
        return list(search.run(make_workshop()))

    ((dense,), (ticket, *controls)) = run(**{stream: 0})
    ((own_dense,), (own_ticket, *own_controls)) = run()
    if stream == "control":
        assert [dense.training.id, ticket.training.id] == [
            own_dense.training.id,
            own_ticket.training.id,
        ]
        assert not {*ids(controls)} & {*ids(own_controls)}
        return
    assert dense.training.id != own_dense.training.id
    if stream == "init":
        zero = make_search(seeds=(0,)).theta_0(0)
        assert same(dense.training.start.weights, zero.weights)
        assert dense.training.streams == own_dense.training.streams
        return
    assert same(dense.training.start.weights, own_dense.training.start.weights)
    for row, own in ((dense, own_dense), (ticket, own_ticket)):
        assert row.training.streams == own.training.streams | {stream: (stream, 0, row.level)}
    assert run(**{stream: 1})[0][0].training.id == own_dense.training.id


def test_search_steps_are_the_updates_spent_on_the_mask(
    make_search: Any, make_workshop: Any
) -> None:
    baselines = {
        "reinit": RandomReinit(origin="dense_k"),
        "shuffled_mask": ShuffledMask(),
        "random_mask": RandomMask(),
        "sham": Sham(),
    }
    expected = {"geometric": [0, 14, 14 + 9, 14 + 9 + 9], "one_shot": [0, 14, 14, 14]}
    for schedule in (Geometric(rate=0.4), OneShot(rate=0.4)):
        name = "geometric" if isinstance(schedule, Geometric) else "one_shot"
        search = make_search(levels=3, schedule=schedule, baselines=baselines)
        for level, rows in enumerate(search.run(make_workshop())):
            for row in rows:
                searched = row.variant in ("ticket", "reinit", "shuffled_mask")
                assert row.search_steps == (expected[name][level] if searched else 0)


# Divergence.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Poison:
    """Rewinds to theta_k, but to NaN from level 2 on for one dense network."""

    dense: str

    def __call__(self, history: Any) -> Restart:
        restart = Matrix()(history)
        if history.dense.id != self.dense or history.parent.id == self.dense:
            return restart
        weights = {n: w * float("nan") for n, w in restart.state.weights.items()}
        return dataclasses.replace(
            restart, state=dataclasses.replace(restart.state, weights=weights)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explode:
    """A control that starts from NaN."""

    draws: int = 1
    searched: bool = True

    def __call__(self, ticket: Training, given: Materials) -> Training:
        weights = {n: w * float("nan") for n, w in ticket.start.weights.items()}
        return ticket.replace(start=dataclasses.replace(ticket.start, weights=weights))


def test_a_diverged_ticket_ends_its_seeds_later_levels(
    make_search: Any, make_workshop: Any
) -> None:
    bad = make_search(seeds=(0,)).dense(0).id
    search = make_search(
        seeds=(0, 1), levels=4, rewind=Poison(dense=bad), baselines={"shuffled": ShuffledMask()}
    )
    levels = list(search.run(make_workshop()))
    found = [[(r.seed, r.variant, r.stored.status) for r in rows] for rows in levels]
    both = [(s, v, "done") for s in (0, 1) for v in ("ticket", "shuffled")]
    assert found[1] == both
    assert found[2] == [(0, "ticket", "diverged"), *both[1:]]
    assert found[3] == found[4] == both[2:]
    row = levels[2][0]
    assert row.stored.done["updates"] == 0, "noticed at the first evaluation"
    healthy = make_search(seeds=(1,), levels=4, baselines={"shuffled": ShuffledMask()})
    alone = list(healthy.run(make_workshop()))
    assert [ids(rows) for rows in alone] == [
        [r.training.id for r in rows if r.seed == 1] for rows in levels
    ]


def test_a_diverged_control_ends_nothing(make_search: Any, make_workshop: Any) -> None:
    levels = list(make_search(baselines={"explode": Explode()}).run(make_workshop()))
    for rows in levels[1:]:
        assert [(r.variant, r.stored.status) for r in rows] == [
            ("ticket", "done"),
            ("explode", "diverged"),
        ]
    bare = list(make_search().run(make_workshop()))
    assert [rows[0].training.id for rows in levels] == [rows[0].training.id for rows in bare]


def test_a_control_whose_own_dense_start_diverges_is_a_diverged_control(
    make_search: Any, make_workshop: Any
) -> None:
    search = make_search()
    workshop = make_workshop()
    (dense,), (ticket,), _ = search.run(workshop)
    bad = {n: w * float("nan") for n, w in dense.training.start.weights.items()}
    control = RandomReinit(origin="dense_k")(
        ticket.training,
        Materials(
            history=search.history(dense.stored, dense.stored, 0),
            dense_start=ticket.training.start,
            fresh=lambda: dataclasses.replace(dense.training.start, weights=bad),
            stream=lambda *purpose: torch.Generator(),
            train=lambda training: workshop.complete([training])[0],
        ),
    )
    (stored,) = workshop.complete([control])
    assert stored.status == "diverged"
    assert (stored.done["first_step"], stored.done["updates"]) == (K, 0)


def test_a_diverged_dense_network_has_no_tickets(make_search: Any, make_workshop: Any) -> None:
    """A real one: a learning rate of 1e30 makes the loss NaN."""
    search = make_search(
        levels=3,
        optimizer=functools.partial(torch.optim.SGD, lr=1e30),
        baselines={"reinit": RandomReinit(origin="dense_k")},
    )
    for schedule in (Geometric(rate=0.4), OneShot(rate=0.4)):
        again = dataclasses.replace(search, schedule=schedule)
        found = list(again.run(make_workshop()))
        assert [len(rows) for rows in found] == [1]
        assert found[0][0].stored.status == "diverged"
        assert 0 < found[0][0].stored.done["updates"] < T
