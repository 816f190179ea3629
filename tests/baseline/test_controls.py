"""Every control of the table in docs changes what it claims and nothing else, bit for bit.

Two seeds, two levels and two draws of every control, for tickets that start from
theta_k (``weights``, ``low_lr``) and from final weights (``learning_rate``).
T = 14, k = 5; biases, gammas and betas are drawn too, so that a fresh one shows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from lth import mask as masks
from lth.baseline.constant_sign import ConstantSign
from lth.baseline.other_order import OtherOrder
from lth.baseline.random_mask import RandomMask
from lth.baseline.random_reinit import RandomReinit
from lth.baseline.reshuffled_weights import ReshuffledWeights
from lth.baseline.same_mask import SameMask
from lth.baseline.sham import Sham
from lth.baseline.shuffled_mask import ShuffledMask
from lth.baseline.sign_reinit import SignReinit
from lth.baseline.sparse_reinit import SparseReinit, gain
from lth.engine.batches import Batches
from lth.init.glorot_normal import GlorotNormal
from lth.level import Row
from lth.rewind.matrix import Matrix
from lth.search import Search
from lth.stream import generator
from lth.training import Training, initial_state
from lth.types import TrainState

K, T = 5, 14
REWINDS = {
    "weights": Matrix(),
    "low_lr": Matrix(schedule="hold"),
    "learning_rate": Matrix(weights="final"),
}
DRAWN = {
    "reinit": RandomReinit(draws=2),
    "reinit_dense_k": RandomReinit(origin="dense_k", draws=2),
    "reinit_k": RandomReinit(origin="k", draws=2),
    "shuffled_mask": ShuffledMask(draws=2),
    "random_mask": RandomMask(draws=2),
    "sign_reinit": SignReinit(draws=2),
    "other_order": OtherOrder(draws=2),
    "reshuffled_weights": ReshuffledWeights(draws=2),
    "sparse_reinit": SparseReinit(draws=2),
    "sparse_reinit_k": SparseReinit(origin="k", draws=2),
}
CONTROLS = {
    **DRAWN,
    "same_mask": SameMask(rewind=Matrix(weights="final", schedule="hold", updates="4it")),
    "sham": Sham(),
    "constant_sign": ConstantSign(),
    "constant_start": ConstantSign(scale="start"),
}
PLACES = [(seed, level) for seed in (0, 1) for level in (1, 2)]
Of = Callable[..., Row]


def scheduled(step: int) -> float:
    return 0.1 * ((step + 1) / 10 if step < 10 else 0.5)


def held(step: int) -> float:
    return 0.1 * 0.5


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A finished search: ``of(variant, seed, level, draw)`` gives its row."""

    search: Search
    rows: list[Row]

    def of(self, variant: str, seed: int, level: int, draw: int = 0) -> Row:
        (row,) = [
            r
            for r in self.rows
            if (r.variant, r.seed, r.level, r.draw) == (variant, seed, level, draw)
        ]
        return row

    def fresh(self, seed: int, level: int, draw: int) -> TrainState:
        """theta_0' of a draw, by its documented stream."""
        search = self.search
        stream = generator("control", seed, level, draw, "fresh")
        return initial_state(search.model, search.tasks[seed], search.init, stream)


@pytest.fixture(scope="module")
def lab(make_search: Any, make_workshop: Any) -> Callable[[str], Lab]:
    @functools.cache
    def run(rewind: str) -> Lab:
        search = make_search(
            seeds=(0, 1),
            init=GlorotNormal(bias="pytorch", gamma="uniform"),
            rewind=REWINDS[rewind],
            baselines=CONTROLS,
        )
        return Lab(search=search, rows=[r for rows in search.run(make_workshop()) for r in rows])

    return run


@pytest.fixture(scope="module")
def dense_state(train_plainly: Any) -> Callable[[Lab, int, int], TrainState]:
    """The dense network of a seed at a step, by plain PyTorch."""

    @functools.cache
    def state(search: Search, seed: int, step: int) -> TrainState:
        result: TrainState = train_plainly(search.dense(seed), scheduled, last_step=step)
        return result

    return lambda lab, seed, step: state(lab.search, seed, step)


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def same_network(a: TrainState, b: TrainState) -> bool:
    return same(a.weights, b.weights) and same(a.buffers, b.buffers)


def differences(a: Training, b: Training) -> set[str]:
    """The names of all that differs; ``weights`` are compared where both masks keep them."""
    found = {
        f.name
        for f in dataclasses.fields(Training)
        if f.name not in ("mask", "start", "streams") and getattr(a, f.name) != getattr(b, f.name)
    }
    found |= {name for name in a.streams if a.streams[name] != b.streams[name]}
    both = {n: a.mask[n] & b.mask[n] for n in a.mask}
    parts = {
        "mask": (a.mask, b.mask),
        "weights": tuple({n: t.start.weights[n][m] for n, m in both.items()} for t in (a, b)),
        "others": tuple(
            {n: w for n, w in t.start.weights.items() if n not in both} for t in (a, b)
        ),
        "buffers": (a.start.buffers, b.start.buffers),
        "slots": (a.start.optimizer or {}, b.start.optimizer or {}),
    }
    return found | {name for name, (x, y) in parts.items() if not same(x, y)}


ALL_OF_IT = {"weights", "others", "buffers"}
CLAIMS = {
    "weights": {
        "reinit": ALL_OF_IT | {"first_step"},
        "reinit_dense_k": ALL_OF_IT,
        "reinit_k": ALL_OF_IT,
        "shuffled_mask": {"mask"},
        "random_mask": {"mask"},
        "sign_reinit": {"weights"},
        "other_order": {"order", "augment", "module"},
        "same_mask": ALL_OF_IT | {"last_step", "learning_rate"},
        "sham": {"mask"},
        "reshuffled_weights": {"weights"},
        "sparse_reinit": ALL_OF_IT | {"first_step"},
        "sparse_reinit_k": ALL_OF_IT,
        "constant_sign": {"weights"},
        "constant_start": {"weights"},
    }
}
CLAIMS["low_lr"] = CLAIMS["weights"] | {
    "reinit": ALL_OF_IT | {"first_step", "learning_rate"},
    "reinit_dense_k": ALL_OF_IT | {"learning_rate"},
    "reinit_k": ALL_OF_IT | {"learning_rate"},
    "sparse_reinit": ALL_OF_IT | {"first_step", "learning_rate"},
    "sparse_reinit_k": ALL_OF_IT | {"learning_rate"},
    "same_mask": ALL_OF_IT | {"last_step"},
}
# Mask controls start from the end of dense level 0, the ticket from its parent's.
CLAIMS["learning_rate"] = CLAIMS["weights"] | {
    "shuffled_mask": {"mask"} | ALL_OF_IT,
    "random_mask": {"mask"} | ALL_OF_IT,
    "same_mask": {"last_step", "learning_rate"},
    "sham": {"mask"} | ALL_OF_IT,
}


@pytest.mark.parametrize("rewind", REWINDS)
@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_changes_what_it_claims_and_nothing_else(
    name: str, rewind: str, lab: Callable[[str], Lab]
) -> None:
    found = lab(rewind)
    for row in (r for r in found.rows if r.variant == name):
        ticket = found.of("ticket", row.seed, row.level).training
        claims = CLAIMS[rewind][name]
        if rewind == "learning_rate" and row.level == 1 and "mask" in claims:
            claims = {"mask"}  # the parent of level 1 is dense level 0
        assert differences(row.training, ticket) == claims, (row.seed, row.level, row.draw)


# variant -> first and last step, rate of the first and of the last update
LIKE_THE_TICKET = {
    "weights": (5, 14, 0.06, 0.05),
    "low_lr": (5, 14, 0.05, 0.05),
    "learning_rate": (5, 14, 0.06, 0.05),
}
SPANS = {
    "reinit": (0, 14, 0.01, 0.05),
    "reinit_dense_k": (5, 14, 0.06, 0.05),
    "reinit_k": (5, 14, 0.06, 0.05),
    "sparse_reinit": (0, 14, 0.01, 0.05),
    "sparse_reinit_k": (5, 14, 0.06, 0.05),
    "same_mask": (5, 9, 0.05, 0.05),
}


@pytest.mark.parametrize("rewind", REWINDS)
@pytest.mark.parametrize("name", ["ticket", *CONTROLS])
def test_span_rate_and_end(
    name: str,
    rewind: str,
    lab: Callable[[str], Lab],
    make_workshop: Any,
    train_plainly: Any,
    watch_updates: Any,
) -> None:
    row = lab(rewind).of(name, 0, 2)
    with watch_updates() as seen:
        (again,) = make_workshop().complete([row.training])
    first, last, first_rate, last_rate = SPANS.get(name, LIKE_THE_TICKET[rewind])
    assert (row.stored.done["first_step"], row.stored.done["last_step"]) == (first, last)
    assert row.stored.done["updates"] == len(seen.rates) == last - first
    assert [seen.rates[0], seen.rates[-1]] == pytest.approx([first_rate, last_rate], rel=1e-12)
    assert seen.slots == [{}] * 9
    assert again.done["digests"] == row.stored.done["digests"]
    rate = held if seen.rates[0] == 0.05 else scheduled
    assert same_network(row.stored.state("end"), train_plainly(row.training, rate))


@pytest.mark.parametrize("rewind", REWINDS)
def test_pruned_positions_are_zero_and_densities_equal(
    rewind: str, lab: Callable[[str], Lab]
) -> None:
    found = lab(rewind)
    checked = 0
    for row in found.rows:
        mask = row.stored.mask()
        assert same(mask, dict(row.training.mask))
        for when in ("start", "end"):
            weights = row.stored.state(when).weights
            assert all(not bool(weights[n][~m].any()) for n, m in mask.items())
        ticket = found.of("ticket", row.seed, row.level).stored
        expected = 1.0 if row.variant == "sham" else ticket.done["density"]
        assert row.stored.done["density"] == expected
        checked += 1
    assert checked == 2 * (1 + 2 * (1 + sum(b.draws for b in CONTROLS.values())))


@pytest.mark.parametrize("origin", ["reinit", "reinit_dense_k", "reinit_k"])
@pytest.mark.parametrize("rewind", REWINDS)
def test_random_reinit_starts_from_its_own_fresh_network(
    origin: str, rewind: str, lab: Callable[[str], Lab], train_plainly: Any
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        for draw in (0, 1):
            theta = found.fresh(seed, level, draw)
            if origin == "reinit_dense_k":
                dense = ticket.replace(
                    mask=masks.full(theta.weights, ticket.mask),
                    start=theta,
                    first_step=0,
                    last_step=K,
                )
                theta = train_plainly(dense, scheduled)
            row = found.of(origin, seed, level, draw)
            assert same(dict(row.training.mask), dict(ticket.mask))
            assert same_network(row.stored.state("start"), masks.apply_state(theta, ticket.mask))
            count = int(row.stored.state("start").buffers["norm1.num_batches_tracked"])
            assert count == (K if origin == "reinit_dense_k" else 0)
            assert row.stored.state("start").step == (0 if origin == "reinit" else K)


def test_at_k_0_the_three_reinits_are_one_training(make_search: Any, make_workshop: Any) -> None:
    for rewind in REWINDS.values():
        reinits = {n: c for n, c in CONTROLS.items() if n.startswith("reinit")}
        search = make_search(rewind_step=0, levels=1, rewind=rewind, baselines=reinits)
        _, rows = search.run(make_workshop())
        for draw in (0, 1):
            ids = {r.training.id for r in rows if r.variant != "ticket" and r.draw == draw}
            assert len(ids) == 1
        assert len({r.training.id for r in rows}) == 3


@pytest.mark.parametrize("rewind", REWINDS)
def test_mask_controls_start_from_the_dense_network(
    rewind: str, lab: Callable[[str], Lab], dense_state: Callable[..., TrainState]
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        dense = dense_state(found, seed, T if rewind == "learning_rate" else K)
        ticket = found.of("ticket", seed, level).training
        for name in ("shuffled_mask", "random_mask", "sham"):
            for draw in range(CONTROLS[name].draws):
                training = found.of(name, seed, level, draw).training
                assert same_network(training.start, masks.apply_state(dense, training.mask))
                outside = [
                    training.start.weights[n][m & ~ticket.mask[n]] for n, m in training.mask.items()
                ]
                assert all(part.numel() and bool(part.all()) for part in outside)


def test_shuffled_mask_keeps_counts_and_moves_connections(lab: Callable[[str], Lab]) -> None:
    found = lab("weights")
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training.mask
        for draw in (0, 1):
            mask = found.of("shuffled_mask", seed, level, draw).training.mask
            assert {n: int(m.sum()) for n, m in mask.items()} == {
                n: int(m.sum()) for n, m in ticket.items()
            }
            assert all(not torch.equal(m, ticket[n]) for n, m in mask.items())


def test_random_mask_keeps_the_total_only(lab: Callable[[str], Lab]) -> None:
    found = lab("weights")
    per_layer = set()
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training.mask
        for draw in (0, 1):
            mask = found.of("random_mask", seed, level, draw).training.mask
            assert masks.remaining(mask) == masks.remaining(ticket)
            assert all(not torch.equal(m, ticket[n]) for n, m in mask.items())
            per_layer.add((level, *(int(m.sum()) for m in mask.values())))
    assert len(per_layer) > 4  # the layers' counts are drawn too


def test_random_mask_is_uniform_over_all_layers(make_search: Any, make_workshop: Any) -> None:
    """Every weight has one chance, whatever its layer: 100 draws of 152 of 252 (fc is excluded)."""
    search = make_search(levels=2, exclude=["fc.weight"])
    (dense,), (ticket,), _ = search.run(make_workshop())
    history = search.history(dense.stored, ticket.stored, 0, frozenset({"fc.weight"}))
    total = {n: torch.zeros(m.shape) for n, m in ticket.training.mask.items()}
    for draw in range(100):
        control = search.control(
            RandomMask(), ticket.training, history, seed=0, level=1, draw=draw, train=_never
        )
        assert bool(control.mask["fc.weight"].all())
        assert masks.remaining(control.mask) == masks.remaining(ticket.training.mask) == 170
        for name, mask in control.mask.items():
            total[name] += mask
    share = 152 / 252
    for name in ("conv1.weight", "conv2.weight"):
        rates = total[name] / 100
        assert float(rates.mean()) == pytest.approx(share, abs=0.03)
        assert float(rates.min()) > 0.35 and float(rates.max()) < 0.85  # 5 sigma


def _never(training: Training) -> Any:
    raise AssertionError("a mask control trains nothing")


@pytest.mark.parametrize("rewind", REWINDS)
def test_sign_reinit_has_the_tickets_signs_and_fresh_magnitudes(
    rewind: str, lab: Callable[[str], Lab]
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        for draw in (0, 1):
            start = found.of("sign_reinit", seed, level, draw).training.start
            fresh = found.fresh(seed, level, draw)
            for name, mask in ticket.mask.items():
                mine, old = start.weights[name], ticket.start.weights[name]
                assert torch.equal(mine.sign(), old.sign())
                assert bool(old[mask].all())
                assert torch.equal(mine[mask].abs(), fresh.weights[name][mask].abs())


@pytest.mark.parametrize("rewind", REWINDS)
def test_reshuffled_weights_move_values_among_the_survivors_of_a_layer(
    rewind: str, lab: Callable[[str], Lab]
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        for draw in (0, 1):
            start = found.of("reshuffled_weights", seed, level, draw).training.start
            for name, mask in ticket.mask.items():
                mine, old = start.weights[name][mask], ticket.start.weights[name][mask]
                assert not torch.equal(mine, old)
                assert torch.equal(mine.sort().values, old.sort().values)


@pytest.mark.parametrize("rewind", REWINDS)
def test_constant_sign_keeps_signs_alone(
    rewind: str, lab: Callable[[str], Lab], dense_state: Callable[..., TrainState]
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        steps = {"constant_sign": 0, "constant_start": T if rewind == "learning_rate" else K}
        for variant, step in steps.items():
            whole = found.search.theta_0(seed) if step == 0 else dense_state(found, seed, step)
            start = found.of(variant, seed, level).training.start
            for name, mask in ticket.mask.items():
                layer = whole.weights[name]
                std = (layer - layer.mean()).square().mean().sqrt()
                mine = start.weights[name][mask]
                assert torch.equal(mine.sign(), ticket.start.weights[name][mask].sign())
                assert bool(mine.abs().eq(mine[0].abs()).all())
                assert float(mine[0].abs()) == pytest.approx(float(std), rel=1e-5)


def test_the_gain_of_a_unit_is_its_fan_in_over_what_the_mask_keeps() -> None:
    """Rows of 4: 4 kept, 1 kept (twice the scale), none kept (nothing to scale)."""
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert gain(mask).tolist() == [[1.0], [2.0], [1.0]]
    kernels = mask.view(3, 1, 2, 2)  # of a convolution: one input channel, 2x2
    assert gain(kernels).flatten().tolist() == [1.0, 2.0, 1.0]
    assert (torch.ones(3, 1, 2, 2) * gain(kernels)).shape == (3, 1, 2, 2)


@pytest.mark.parametrize("origin", ["init", "k"])
def test_sparse_reinit_is_random_reinit_with_each_units_own_scale(
    origin: str, lab: Callable[[str], Lab]
) -> None:
    found = lab("weights")
    ours, theirs = (
        ("sparse_reinit", "reinit") if origin == "init" else ("sparse_reinit_k", "reinit_k")
    )
    units = 0
    for seed, level in PLACES:
        for draw in (0, 1):
            mine = found.of(ours, seed, level, draw).training
            dense_fan = found.of(theirs, seed, level, draw).training
            assert differences(mine, dense_fan) == {"weights"}
            for name, mask in mine.mask.items():
                for unit, kept in enumerate(mask):
                    if not kept.any():
                        continue
                    ratio = (
                        mine.start.weights[name][unit][kept]
                        / (dense_fan.start.weights[name][unit][kept])
                    )
                    expected = (kept.numel() / int(kept.sum())) ** 0.5
                    torch.testing.assert_close(ratio, torch.full_like(ratio, expected))
                    units += 1
    assert units > 80


@pytest.mark.parametrize("rewind", REWINDS)
def test_same_mask_is_its_cell_of_the_matrix(rewind: str, lab: Callable[[str], Lab]) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        parent = found.of("ticket", seed, level - 1).stored.state("end")
        training = found.of("same_mask", seed, level).training
        assert same_network(training.start, masks.apply_state(parent, ticket.mask))
        assert training.learning_rate.hold


def test_other_order_draws_other_batches(
    make_search: Any, make_workshop: Any, tiny_task: Any
) -> None:
    """Other examples in other order, otherwise cropped and flipped, another module stream."""
    task = tiny_task(crop=2, flip=True)
    search = make_search(levels=1, tasks={0: task}, baselines={"other": OtherOrder(draws=2)})
    _, (ticket, *others) = search.run(make_workshop())
    trainings = [ticket.training, *(r.training for r in others)]
    labels, images = set(), set()
    for training in trainings:
        x, y = Batches(training, torch.device("cpu"))(K)
        labels.add(tuple(y.tolist()))
        images.add(tuple(x.flatten().tolist()))
        one_order = training.replace(
            streams={**training.streams, "order": trainings[0].streams["order"]}
        )
        x, _ = Batches(one_order, torch.device("cpu"))(K)
        images.add(tuple(x.flatten().tolist()))
    assert len(labels) == 3
    assert len(images) == 5  # the ticket's own batch is counted once
    for stream in ("order", "augment", "module"):
        assert len({t.streams[stream] for t in trainings}) == 3
    ends = {r.stored.done["digests"]["end"] for r in (ticket, *others)}
    assert len(ends) == 3


def test_the_variants_of_a_level_share_its_batches(lab: Callable[[str], Lab]) -> None:
    found = lab("weights")
    for seed, level in PLACES:
        keys = {
            tuple(sorted(r.training.streams.items()))
            for r in found.rows
            if (r.seed, r.level) == (seed, level) and r.variant != "other_order"
        }
        assert keys == {tuple((s, (s, seed, level)) for s in ("augment", "module", "order"))}


def test_equal_seeds_and_draws_give_equal_controls_and_others_differ(
    lab: Callable[[str], Lab], make_workshop: Any
) -> None:
    found = lab("weights")
    again = [r for rows in found.search.run(make_workshop()) for r in rows]
    assert [r.training.id for r in again] == [r.training.id for r in found.rows]
    assert [r.stored.done["digests"] for r in again] == [
        r.stored.done["digests"] for r in found.rows
    ]
    assert len({r.training.id for r in again}) == len(again)


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_drawn_depends_on_seed_level_and_draw(name: str, lab: Callable[[str], Lab]) -> None:
    """The draw itself, not only the id (which a level's data order would change anyway)."""
    found = lab("weights")
    drawn = set()
    for seed, level in PLACES:
        for draw in (0, 1):
            training = found.of(name, seed, level, draw).training
            if name == "other_order":
                drawn.add(training.streams["order"][3:])
            elif "mask" in name:
                drawn.add(tuple(torch.cat([m.flatten() for m in training.mask.values()]).tolist()))
            elif name == "reshuffled_weights":
                ticket = found.of("ticket", seed, level).training
                kept = ticket.mask["conv2.weight"]
                old, new = (t.start.weights["conv2.weight"][kept] for t in (ticket, training))
                drawn.add(tuple((new[:, None] == old).int().argmax(1).tolist()))
            else:
                # where the tickets of all places kept the weight
                common = functools.reduce(
                    torch.logical_and,
                    [found.of("ticket", *p).training.mask["conv2.weight"] for p in PLACES],
                )
                assert bool(common.any())
                drawn.add(tuple(training.start.weights["conv2.weight"][common].abs().tolist()))
    assert len(drawn) == 8


def test_a_draw_depends_on_no_other_control_and_on_no_number_of_draws(
    lab: Callable[[str], Lab], make_workshop: Any
) -> None:
    found = lab("weights")
    for name, baseline in DRAWN.items():
        one = dataclasses.replace(baseline, draws=1)
        alone = dataclasses.replace(found.search, levels=1, baselines={"my own name": one})
        _, rows = alone.run(make_workshop())
        controls = [r for r in rows if r.variant == "my own name"]
        assert [r.training.id for r in controls] == [
            found.of(name, seed, 1).training.id for seed in (0, 1)
        ]


def test_controls_never_feed_a_pruning_step(lab: Callable[[str], Lab], make_workshop: Any) -> None:
    for rewind in REWINDS:
        found = lab(rewind)
        bare = dataclasses.replace(found.search, baselines={})
        rows = [r for rows in bare.run(make_workshop()) for r in rows]
        tickets = [r for r in found.rows if r.variant == "ticket"]
        assert [r.training.id for r in rows] == [r.training.id for r in tickets]
        assert [r.stored.done["digests"] for r in rows] == [
            r.stored.done["digests"] for r in tickets
        ]


def test_saved_slots_follow_the_start_they_belong_to(make_search: Any, make_workshop: Any) -> None:
    """Mask controls take the dense slots under their own mask; fresh values start fresh."""
    search = make_search(levels=1, rewind=Matrix(optimizer="saved"), baselines=CONTROLS)
    (dense,), rows = search.run(make_workshop())
    slots = dense.stored.state(K).optimizer
    assert slots
    with_slots = set()
    for row in rows:
        start = row.stored.state("start")
        if start.optimizer is None:
            continue
        with_slots.add(row.variant)
        for key, value in start.optimizer.items():
            mask = row.training.mask.get(key.rpartition("/")[0])
            assert torch.equal(value, slots[key] if mask is None else slots[key] * mask)
    assert with_slots == {"ticket", "shuffled_mask", "random_mask", "other_order", "sham"}


@pytest.mark.parametrize("baseline", [type(b) for b in DRAWN.values()])
def test_draws_are_1_or_more(baseline: type) -> None:
    with pytest.raises(ValueError, match="draws: got 0, allowed: 1 or more"):
        baseline(draws=0)


def test_what_draws_nothing_has_one_draw() -> None:
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        Sham(draws=2)
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        SameMask(rewind=Matrix(), draws=2)
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        ConstantSign(draws=2)


def test_options_name_what_they_allow() -> None:
    with pytest.raises(ValueError, match="origin: got 'dense', allowed: init, dense_k, k"):
        RandomReinit(origin="dense")
    with pytest.raises(ValueError, match="origin: got 'dense_k', allowed: init, k"):
        SparseReinit(origin="dense_k")
    with pytest.raises(ValueError, match="scale: got 'std', allowed: init, start"):
        ConstantSign(scale="std")
