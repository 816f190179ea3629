"""Evolved layer densities: exact totals, the best of all candidates, and going on where it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lth import mask as masks
from lth.finder.evolve import Evolve, spread
from lth.store.memory import MemoryStore
from lth.training import Training

pytest.importorskip("cmaes")

SIZES = {"a": 100, "b": 200}
SMALL = Evolve(updates="2it", generations=2, population=4)
Make = Callable[..., Any]


@pytest.mark.parametrize(
    ("point", "keep", "counts"),
    [
        ((0.0, 0.0), 150, {"a": 50, "b": 100}),
        ((math.log(2), 0.0), 150, {"a": 75, "b": 75}),  # 2 * 100 to 1 * 200
        ((5.0 + math.log(2), 5.0), 150, {"a": 75, "b": 75}),  # only differences count
        ((math.log(8), 0.0), 250, {"a": 100, "b": 150}),  # a is whole, b takes the rest
        ((800.0, 0.0), 30, {"a": 30, "b": 0}),
    ],
)
def test_densities_worked_by_hand(
    point: tuple[float, float], keep: int, counts: dict[str, int]
) -> None:
    assert spread(dict(zip(SIZES, point, strict=True)), SIZES, SIZES, keep) == counts


def test_layers_never_take_more_than_their_parent_left() -> None:
    assert spread({"a": 3.0, "b": 0.0}, SIZES, {"a": 20, "b": 90}, 100) == {"a": 20, "b": 80}


def searched(make_search: Make, make_workshop: Make, store: MemoryStore, **changes: Any) -> Any:
    trained: list[Training] = []
    workshop = make_workshop(store, committed=lambda training, stored: trained.append(training))
    search = make_search(levels=1, finder=SMALL, **changes)
    _, rows = search.run(workshop)
    return search, {r.variant: r for r in rows}, trained


def test_the_best_of_all_candidates_is_the_ticket(make_search: Make, make_workshop: Make) -> None:
    store = MemoryStore()
    before = np.random.get_state()[1].tolist()
    search, rows, trained = searched(make_search, make_workshop, store)
    assert np.random.get_state()[1].tolist() == before
    ticket, found = rows["ticket"], rows["evolve"]
    short = [t for t in trained if (t.first_step, t.last_step) == (5, 7)]
    assert 2 <= len(short) <= 9 and len(trained) == len(short) + 2  # the dense network, the ticket
    plain = make_search(levels=1)
    _, (usual,) = plain.run(make_workshop(store))
    assert masks.layer_densities(short[0].mask) == masks.layer_densities(usual.training.mask)
    total = masks.remaining(usual.training.mask)
    assert all(masks.remaining(t.mask) == total for t in short)
    losses = [store.get(t.id).metrics()[-1]["val_loss"] for t in short]
    best = short[losses.index(min(losses))]
    assert found.training.id == best.id
    assert all(torch.equal(m, best.mask[n]) for n, m in ticket.training.mask.items())
    # Within its layers a candidate keeps what scores highest.
    end = search.history(*2 * [store.get(search.dense(0).id)], 0).dense_end
    for training in short:
        for name, kept in training.mask.items():
            magnitude = end.weights[name].abs()
            if bool(kept.any()) and not bool(kept.all()):
                assert magnitude[kept].min() >= magnitude[~kept].max()
    # 14 updates dense, and two for each of 9 candidates.
    assert found.search_steps == 14 + 8 * 2
    assert ticket.search_steps == 14 + 9 * 2
    assert (ticket.training.first_step, ticket.training.last_step) == (5, 14)


def test_what_was_broken_off_goes_on_and_ends_the_same(
    make_search: Make, make_workshop: Make
) -> None:
    whole = MemoryStore()
    _, rows, every = searched(make_search, make_workshop, whole)
    broken, seen = MemoryStore(), []

    def stop(training: Training, stored: Any) -> None:
        seen.append(training)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(make_search(levels=1, finder=SMALL).run(make_workshop(broken, committed=stop)))
    _, again, rest = searched(make_search, make_workshop, broken)
    assert [t.id for t in (*seen, *rest)] == [t.id for t in every]
    assert {v: r.training.id for v, r in again.items()} == {
        v: r.training.id for v, r in rows.items()
    }
    _, _, none = searched(make_search, make_workshop, broken)
    assert none == []


def test_excluded_layers_stay_whole_and_two_must_be_left(
    make_search: Make, make_workshop: Make
) -> None:
    _, rows, _ = searched(make_search, make_workshop, MemoryStore(), exclude=["fc.weight"])
    assert bool(rows["ticket"].training.mask["fc.weight"].all())
    SMALL.check(make_search(exclude=["fc.weight"]))
    with pytest.raises(ValueError, match="exclude: got 1 layers left, allowed: 2 or more"):
        SMALL.check(make_search(exclude=["fc.weight", "conv1.weight"]))


def test_options_name_what_they_allow() -> None:
    for options, message in (
        ({"updates": "0it"}, "updates: got '0it', allowed: a step of at least 1it"),
        ({"generations": 0}, "generations: got 0, allowed: 1 or more"),
        ({"population": 3}, "population: got 3, allowed: 4 or more"),
        ({"sigma": 0.0}, "sigma: got 0.0, allowed: above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Evolve(**options)  # type: ignore[arg-type]
