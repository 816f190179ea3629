"""Finders: masks that training itself finds, hand-worked, and their place in a search."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.allocation.layerwise import Layerwise
from lth.complete import Workshop
from lth.criterion.random import random
from lth.engine.loop import Loop
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.finder.dynamic_sparse import DropGrow, DynamicSparse, replace
from lth.finder.early_bird import EarlyBird, StandsStill, distance
from lth.finder.gradual import Gradual, PruneGradually
from lth.finder.supermask import Supermask
from lth.level import Row
from lth.protocol import Moment, Record, Result, Resume
from lth.rewind.matrix import Matrix
from lth.runtime import Runtime
from lth.schedule.geometric import Geometric
from lth.search import Search
from lth.step import Step
from lth.training import Training
from lth.types import Mask, Scores

Make = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Look:
    """Calls ``do(moment)`` at every step, before the events of the training act."""

    do: Any

    def steps(self, training: Training) -> Iterable[int]:
        return range(training.last_step + 1)

    def __call__(self, moment: Moment, record: Record) -> None:
        self.do(moment)


def run(training: Training, *observers: Any, resume: Resume | None = None) -> Result:
    (result,) = Loop().train(
        [training],
        events=lambda t: observers,
        resume=lambda t: resume,
        runtime=Runtime(device="cpu"),
    )
    return result


def half(make_search: Make, *events: Any, **changes: Any) -> Training:
    """Steps 0 to 14 of the tiny network at half its weights."""
    dense = make_search().dense(0)
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(m.shape, generator=generator) for n, m in dense.mask.items()}
    mask = {n: masks.keep_top(scores, {n: m}, m.numel() // 2)[n] for n, m in dense.mask.items()}
    return dense.replace(mask=mask, events=events, **changes)  # type: ignore[no-any-return]


def moving(growth: str, **changes: Any) -> DropGrow:
    options = {"every": Step(iterations=2), "fraction": 0.4, "until": 0.75} | changes
    return DropGrow(growth=growth, **options)


def test_a_layer_drops_its_smallest_and_grows_the_largest_gradients() -> None:
    mask = torch.tensor([True, True, True, True, False, False, False])
    magnitude = torch.tensor([0.4, 0.1, 0.3, 0.2, 0.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 9.0, 9.0, 9.0, 0.1, 0.3, 0.2])
    # f = 0.5 of 4: out go 0.1 and 0.2; in come 0.3 and 0.2, none of what was active.
    new, count = replace(mask, magnitude, gradient, 0.5)
    assert count == 2
    assert new.tolist() == [True, False, True, False, False, True, True]
    # Two are inactive at most, so no more than that are replaced.
    new, count = replace(~mask, magnitude, gradient, 1.0)
    assert count == 3 and int(new.sum()) == 3


def test_ties_go_to_the_lower_index() -> None:
    mask = torch.tensor([True, True, False, False])
    new, _ = replace(mask, torch.ones(4), torch.ones(4), 0.5)
    assert new.tolist() == [True, False, True, False]


def test_the_rate_falls_as_a_cosine_and_ends_at_three_quarters(make_search: Make) -> None:
    training = make_search().dense(0).replace(last_step=100, eval_every=50)
    event = moving("gradient", every=Step(iterations=10))
    assert list(event.steps(training)) == [10, 20, 30, 40, 50, 60, 70]
    assert event.rate(training, 0) == pytest.approx(0.4)
    assert event.rate(training, 25) == pytest.approx(0.3)  # cos(pi/3) = 1/2
    assert event.rate(training, 75) == pytest.approx(0.0)


@pytest.mark.parametrize("growth", ["gradient", "random"])
def test_counts_stay_and_new_weights_and_slots_are_zero(growth: str, make_search: Make) -> None:
    seen: list[tuple[int, dict[str, Tensor], Any]] = []
    training = half(make_search, moving(growth, fixed=("fc.weight",)))
    result = run(
        training,
        Look(lambda m: seen.append((m.step, dict(m.mask), m.state(optimizer=True)))),
    )
    for _, mask, state in seen:
        for name, kept in mask.items():
            assert int(kept.sum()) == int(training.mask[name].sum())
            assert torch.equal(state.weights[name][~kept], torch.zeros(int((~kept).sum())))
    moved = 0
    for (_, before, _), (step, after, state) in itertools.pairwise(seen):
        for name in after:
            new = after[name] & ~before[name]
            moved += int(new.sum())
            if step not in (2, 4, 6, 8, 10):
                assert not new.any()
            # An event acts before observers look, so new weights are seen before any update.
            assert bool((state.weights[name][new] == 0).all())
            slot = state.optimizer.get(f"{name}/momentum_buffer")
            assert slot is None or bool((slot[new] == 0).all())
    assert moved > 20
    assert torch.equal(result.mask["fc.weight"], training.mask["fc.weight"])
    rows = result.record.probes["drop_grow"]
    assert [r["step"] for r in rows] == [s for s in (2, 4, 6, 8, 10) for _ in range(2)]
    assert all(r["active"] <= r["ever_active"] <= r["all"] for r in rows)
    ever = {r["layer"]: r["ever_active"] for r in rows}
    assert ever["conv2.weight"] > int(training.mask["conv2.weight"].sum())


def test_rigl_grows_the_largest_dense_gradients_of_the_next_batch(make_search: Make) -> None:
    at_two: dict[str, Any] = {}
    still = half(make_search)

    def note(moment: Moment) -> None:
        if moment.step == 2:
            at_two.update(gradient=moment.gradient(), state=moment.state())

    run(still, Look(note))
    event = moving("gradient")
    grown: dict[str, Tensor] = {}
    moved = half(make_search, event)
    run(moved, Look(lambda m: grown.update(m.mask) if m.step == 2 else None))
    for name, old in still.mask.items():
        rate = event.rate(moved, 2)
        count = min(round(rate * int(old.sum())), int((~old).sum()))
        new = grown[name] & ~old
        assert int(new.sum()) == count
        gradient = at_two["gradient"][name].abs()
        assert gradient[new].min() >= gradient[~old & ~new].max()
        dropped = old & ~grown[name]
        weights = at_two["state"].weights[name].abs()
        assert weights[dropped].max() <= weights[old & ~dropped].min()


def test_set_grows_at_random_by_its_stream(make_search: Make) -> None:
    a = run(half(make_search, moving("random")))
    b = run(half(make_search, moving("random")))
    other = half(make_search, moving("random"))
    streams = {**other.streams, "order": ("order", 1, 0)}
    c = run(other.replace(streams=streams))
    assert all(torch.equal(a.mask[n], b.mask[n]) for n in a.mask)
    assert any(not torch.equal(a.mask[n], c.mask[n]) for n in a.mask)


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_moving_mask_resumes_bit_for_bit(at: int, make_search: Make) -> None:
    training = half(make_search, moving("gradient"))
    first: list[Resume] = []
    checkpoint = Checkpoint(
        interval=Interval(step=Step(iterations=at)),
        save=lambda t, resume: first.append(copy.deepcopy(resume)),
    )
    whole = run(training, Evaluate(), checkpoint)
    again = run(training, Evaluate(), resume=first[0])
    assert first[0].state.step == at
    for name in whole.end.weights:
        assert torch.equal(whole.end.weights[name], again.end.weights[name])
    assert whole.record.probes == again.record.probes


def test_the_cubic_schedule(make_search: Make) -> None:
    dense = make_search().dense(0).replace(last_step=100, eval_every=50)
    layers = dict.fromkeys(dense.mask, "conv")
    event = PruneGradually(
        keep=30,
        every=Step(iterations=10),
        begin=0.2,
        until=0.8,
        allocation=GlobalTop(),
        layers=layers,
    )
    size = masks.size(dense.mask)
    assert list(event.steps(dense)) == [30, 40, 50, 60, 70, 80]
    assert event.target(dense, 20) == size
    assert event.target(dense, 50) == round(30 + (size - 30) / 8)  # (1 - 1/2)^3
    assert event.target(dense, 80) == 30


def test_gradual_pruning_nests_and_ends_at_its_count(make_search: Make) -> None:
    dense = make_search().dense(0)
    layers = {"conv1.weight": "conv", "conv2.weight": "conv"}
    event = PruneGradually(
        keep=25,
        every=Step(iterations=3),
        begin=0.0,
        until=0.7,
        allocation=GlobalTop(),
        layers=layers,
    )
    seen: list[dict[str, Tensor]] = []
    result = run(dense.replace(events=(event,)), Look(lambda m: seen.append(dict(m.mask))))
    for before, after in itertools.pairwise(seen):
        assert masks.nested(after, before)
    assert masks.remaining({n: result.mask[n] for n in layers}) == 25
    assert bool(result.mask["fc.weight"].all())
    densities = [r["density"] for r in result.record.probes["prune_gradually"]]
    assert densities == sorted(densities, reverse=True) and len(set(densities)) >= 3


def test_distances_are_in_units_of_chance() -> None:
    a = torch.tensor([True, False, True, False])
    assert distance(a, a) == 0.0
    assert distance(a, ~a) == 2.0  # every position differs, half of them would by chance
    generator = torch.Generator().manual_seed(0)
    for density in (0.02, 0.5):
        p, q = (torch.rand(200_000, generator=generator) < density for _ in range(2))
        assert distance(p, q) == pytest.approx(1.0, abs=0.03)
    assert distance(torch.ones(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)) == 0.0


def still(threshold: float) -> StandsStill:
    return StandsStill(
        keep=100,
        every=Step(iterations=1),
        window=3,
        threshold=threshold,
        allocation=GlobalTop(),
        layers={"conv1.weight": "conv", "conv2.weight": "conv", "fc.weight": "output"},
    )


def test_it_stops_where_the_mask_stands_still_and_is_evaluated_there(make_search: Make) -> None:
    result = run(make_search().dense(0).replace(events=(still(1.0),)), Evaluate())
    rows = result.record.probes["early_bird"]
    assert [r["masks"] for r in rows] == [0, 1, 2]  # a window of three: the newest and two others
    assert result.end.step == 3
    assert result.record.status == "stopped"
    last = result.record.metrics[-1]
    assert last["step"] == 3 and "test_loss" in last and "train_loss" in last
    assert "test/early_stop/loss" in result.record.predictions


@dataclasses.dataclass(frozen=True)
class Independent:
    """An allocation that draws anew at every call, one after another."""

    stream: torch.Generator

    def __call__(self, scores: Scores, mask: Mask, *, keep: int, **_: Any) -> dict[str, Tensor]:
        drawn = {n: torch.rand(m.shape, generator=self.stream) for n, m in mask.items()}
        return masks.keep_top(drawn, mask, keep)


def test_independent_masks_of_a_sparse_parent_never_stop_it(make_search: Make) -> None:
    """All keep 95 % of 30 %, so hardly any of all positions differ, but half of those that may."""
    dense = make_search().dense(0)
    stream = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(m.shape, generator=stream) for n, m in dense.mask.items()}
    parent = masks.keep_top(scores, dense.mask, 80)
    event = dataclasses.replace(still(0.1), keep=76, allocation=Independent(stream))
    moments = [SimpleNamespace(mask=parent, step=s, state=lambda: dense.start) for s in range(8)]
    record = Record()
    assert [event(m, record) for m in moments] == [None] * 8  # type: ignore[arg-type]
    rows = record.probes["early_bird"][1:]
    assert sum(r["distance"] for r in rows) / len(rows) > 0.7


def test_masks_that_move_never_stop_it(make_search: Make) -> None:
    result = run(make_search().dense(0).replace(events=(still(1e-9),)), Evaluate())
    assert result.record.status == "done"
    assert result.end.step == 14


# In a search


def level_one(
    make_search: Make, make_workshop: Make, finder: Any, **changes: Any
) -> tuple[Search, dict[str, Row]]:
    search = make_search(levels=1, finder=finder, **changes)
    _, rows = search.run(make_workshop())
    return search, {r.variant: r for r in rows}


def test_rigl_finds_a_mask_and_has_its_static_control(
    make_search: Make, make_workshop: Make
) -> None:
    finder = DynamicSparse(every="2it", fraction=0.5)
    search, rows = level_one(
        make_search, make_workshop, finder, criterion=random, prune_at=0, rewind_step=0
    )
    assert set(rows) == {"rigl", "static", "ticket"}
    found, static, ticket = rows["rigl"], rows["static"], rows["ticket"]
    for name, kept in found.training.mask.items():
        assert torch.equal(kept, static.training.mask[name])
        assert torch.equal(found.training.start.weights[name], static.training.start.weights[name])
        assert torch.equal(ticket.training.mask[name], found.stored.mask()[name])
    assert static.training.events == () and ticket.training.events == ()
    assert static.training.streams == found.training.streams
    theta = search.theta_0(0).weights
    for name, kept in ticket.training.mask.items():
        assert torch.equal(ticket.training.start.weights[name], theta[name] * kept)
    assert ticket.search_steps == found.search_steps + 14


def test_gradual_starts_dense_and_gives_the_level_its_count(
    make_search: Make, make_workshop: Make
) -> None:
    search, rows = level_one(make_search, make_workshop, Gradual(every="2it"))
    plain = make_search(levels=1)
    _, (usual,) = plain.run(make_workshop())
    assert masks.density(rows["gradual"].training.mask) == 1.0
    assert rows["gradual"].training.first_step == search.rewind_step
    assert masks.remaining(rows["ticket"].training.mask) == masks.remaining(usual.training.mask)
    assert rows["ticket"].search_steps == 14 + (14 - 5)


@pytest.mark.parametrize(
    "allocation", [Layerwise(), Layerwise(output=0.1, rates={"conv1.weight": 0.9})]
)
def test_gradual_ends_at_the_counts_of_each_layer(
    allocation: Layerwise, make_search: Make, make_workshop: Make
) -> None:
    """Where rates say what each layer keeps, they are the schedule's, not some others."""
    options = {"allocation": allocation, "schedule": Geometric(rate=0.8)}
    _, rows = level_one(make_search, make_workshop, Gradual(every="2it"), **options)
    _, (usual,) = make_search(levels=1, **options).run(make_workshop())
    for name, kept in usual.training.mask.items():
        assert int(rows["ticket"].training.mask[name].sum()) == int(kept.sum()), name
    densities = [r["density"] for r in rows["gradual"].stored.probe("prune_gradually")]
    assert densities == sorted(densities, reverse=True) and len(set(densities)) >= 3


def test_early_bird_counts_only_the_updates_it_made(make_search: Make, make_workshop: Make) -> None:
    finder = EarlyBird(every="1it", window=2, threshold=1.0)
    _, rows = level_one(make_search, make_workshop, finder)
    found = rows["early_bird"].stored
    assert found.status == "stopped"
    assert found.done["updates"] == 2
    assert rows["ticket"].search_steps == 14 + 2
    end = found.state("end").weights
    kept = rows["ticket"].training.mask["conv2.weight"]
    assert end["conv2.weight"].abs()[kept].min() >= end["conv2.weight"].abs()[~kept].max()


def test_final_weights_are_those_of_what_found_the_mask(
    make_search: Make, make_workshop: Make
) -> None:
    finder = EarlyBird(every="1it", window=2, threshold=1.0)
    _, rows = level_one(
        make_search, make_workshop, finder, rewind=Matrix(weights="final"), rewind_step=0
    )
    ticket, end = rows["ticket"].training, rows["early_bird"].stored.state("end")
    for name, kept in ticket.mask.items():
        assert torch.equal(ticket.start.weights[name], end.weights[name] * kept)


def test_a_search_with_a_finder_is_stored_once(make_search: Make, make_workshop: Make) -> None:
    workshop: Workshop = make_workshop()
    list(make_search(levels=2, finder=DynamicSparse(every="2it")).run(workshop))
    trained: list[str] = []
    workshop.committed = lambda training, stored: trained.append(training.id)
    list(make_search(levels=2, finder=DynamicSparse(every="2it")).run(workshop))
    assert trained == []


@pytest.mark.parametrize("finder", [EarlyBird(every="1it", window=2, threshold=1.0), Supermask()])
def test_what_a_mask_is_read_off_is_had_again_where_it_was_thinned(
    finder: Any, make_search: Make, make_workshop: Make
) -> None:
    workshop: Workshop = make_workshop()
    search = make_search(levels=1, finder=finder)
    _, rows = search.run(workshop)
    for row in rows:
        assert workshop.store.thin(row.stored).dropped
    _, again = search.run(workshop)
    assert [r.training.id for r in again] == [r.training.id for r in rows]
    assert [r.stored.done["digests"] for r in again] == [r.stored.done["digests"] for r in rows]


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: DynamicSparse(growth="most"), "growth: got 'most', allowed: gradient, random"),
        (lambda: DynamicSparse(every="0it"), "every: got '0it', allowed: a step of at least 1it"),
        (lambda: DynamicSparse(fraction=0.0), "fraction: got 0.0, allowed: 0 < fraction <= 1"),
        (lambda: DynamicSparse(until=1.5), "until: got 1.5, allowed: 0 < until <= 1"),
        (lambda: Gradual(begin=0.5, until=0.5), "until: got 0.5, allowed: begin (0.5) < until"),
        (lambda: Gradual(every="often"), "every: got 'often', allowed: a step such as"),
        (lambda: EarlyBird(window=1), "window: got 1, allowed: 2 masks or more"),
        (lambda: EarlyBird(threshold=0), "threshold: got 0, allowed: 0 < threshold <= 1"),
    ],
)
def test_faults_name_the_option(make: Callable[[], Any], fault: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is checked)
        make()
    assert fault in str(caught.value)
