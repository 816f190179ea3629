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
from lth.allocation.global_top import GlobalTop
from lth.baseline.constant_sign import ConstantSign
from lth.baseline.corrupted_task import CorruptedTask
from lth.baseline.crossed_times import CrossedTimes
from lth.baseline.dense_total import DenseTotal, Stretched
from lth.baseline.inverted_scores import InvertedScores
from lth.baseline.other_order import OtherOrder
from lth.baseline.random_mask import RandomMask
from lth.baseline.random_reinit import RandomReinit
from lth.baseline.reshuffled_weights import ReshuffledWeights
from lth.baseline.same_mask import SameMask
from lth.baseline.sham import Sham
from lth.baseline.shuffled_mask import ShuffledMask
from lth.baseline.sign_reinit import SignReinit
from lth.baseline.small_dense import SmallDense
from lth.baseline.smart_ratio import SmartRatio, smart_counts
from lth.baseline.sparse_reinit import SparseReinit, gain
from lth.criterion.grasp import GraSP
from lth.criterion.magnitude import magnitude
from lth.criterion.movement_sanh import MovementSanh
from lth.criterion.random import random
from lth.criterion.snip import SNIP
from lth.criterion.synflow import SynFlow
from lth.dataset.corrupt import corrupt
from lth.engine.batches import Batches
from lth.finder.early_bird import EarlyBird
from lth.init.glorot_normal import GlorotNormal
from lth.iterate import _reads_parent_end
from lth.level import Row
from lth.lr.step import MultiStep
from lth.model.torchvision import ResNet18
from lth.rewind.matrix import Matrix
from lth.schedule.geometric import Geometric
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
    "random_constant": ConstantSign(signs="random", draws=2),
    "reshuffled_magnitudes": ReshuffledWeights(keep_signs=True, draws=2),
    "other_order": OtherOrder(draws=2),
    "reshuffled_weights": ReshuffledWeights(draws=2),
    "sparse_reinit": SparseReinit(draws=2),
    "sparse_reinit_k": SparseReinit(origin="k", draws=2),
    "smart_ratio": SmartRatio(draws=2),
    "corrupted_labels": CorruptedTask(draws=2),
    "corrupted_pixels": CorruptedTask(labels="true", pixels="shuffled", draws=2),
}
CONTROLS = {
    **DRAWN,
    "same_mask": SameMask(rewind=Matrix(weights="final", schedule="hold", updates="4it")),
    "sham": Sham(),
    "constant_sign": ConstantSign(),
    "constant_start": ConstantSign(scale="start"),
    "inverted_scores": InvertedScores(),
    "early_mask": CrossedTimes(mask="init", weights="end"),
    "early_weights": CrossedTimes(mask="ticket", weights="init"),
    "dense_total": DenseTotal(),
}
MASKS = (
    "shuffled_mask",
    "random_mask",
    "sham",
    "smart_ratio",
    "corrupted_labels",
    "corrupted_pixels",
    "inverted_scores",
)
"""Controls of the mask alone, on the dense network's weights."""
UNPRUNED = ("sham", "dense_total")
PLACES = [(seed, level) for seed in (0, 1) for level in (1, 2)]
Of = Callable[..., Row]


def scheduled(step: int) -> float:
    return 0.1 * ((step + 1) / 10 if step < 10 else 0.5)


def stretched(step: int) -> float:
    return 0.1 * ((step + 1) / 23 if step < 23 else 0.5)


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
        **{name: {"mask"} for name in MASKS},
        "sign_reinit": {"weights"},
        "random_constant": {"weights"},
        "reshuffled_magnitudes": {"weights"},
        "other_order": {"order", "augment", "module"},
        "same_mask": ALL_OF_IT | {"last_step", "learning_rate"},
        "early_mask": {"mask"} | ALL_OF_IT,
        "early_weights": ALL_OF_IT,
        "dense_total": {"mask", "first_step", "last_step", "learning_rate"} | ALL_OF_IT,
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
    **{name: {"mask"} | ALL_OF_IT for name in MASKS},
    "same_mask": {"last_step", "learning_rate"},
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
        from_the_end = (*MASKS, "early_mask")
        if rewind == "learning_rate" and row.level == 1 and name in from_the_end:
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
    # 14 dense, 9 of level 1 and its own 9: 32 of 14, so warm-up 10 and the drop at 10 come at 23.
    "dense_total": (0, 32, 0.1 / 23, 0.05),
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
    rate = held if seen.rates[0] == 0.05 else stretched if name == "dense_total" else scheduled
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
        expected = 1.0 if row.variant in UNPRUNED else ticket.done["density"]
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
        for name in MASKS:
            for draw in range(CONTROLS[name].draws):
                training = found.of(name, seed, level, draw).training
                assert same_network(training.start, masks.apply_state(dense, training.mask))
                outside = [
                    training.start.weights[n][m & ~ticket.mask[n]] for n, m in training.mask.items()
                ]
                assert sum(part.numel() for part in outside) and all(bool(p.all()) for p in outside)


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


@pytest.mark.parametrize("criterion", [magnitude, SNIP(), GraSP(per_class=2), SynFlow(), random])
def test_masks_at_initialisation_are_shuffled_within_their_layers(
    criterion: Any, make_search: Any, make_workshop: Any
) -> None:
    """What a layer-wise shuffle keeps is each layer's count, the start and the (absent) cost.

    More cannot be promised: that accuracy stays (Frankle et al. 2021) is for runs to show.
    """
    search = make_search(
        levels=1,
        rewind_step=0,
        prune_at=0,
        criterion=criterion,
        allocation=GlobalTop(),
        schedule=Geometric(rate=0.5),
        baselines={"shuffled": ShuffledMask(draws=2), "inverted": InvertedScores()},
    )
    _, (ticket, *shuffled, inverted) = search.run(make_workshop())
    counts = {n: int(m.sum()) for n, m in ticket.training.mask.items()}
    for row in (*shuffled, inverted):
        assert differences(row.training, ticket.training) == {"mask"}
        assert {n: int(m.sum()) for n, m in row.training.mask.items()} == counts
        start = masks.apply_state(search.theta_0(0), row.training.mask)
        assert same_network(row.training.start, start)
        assert row.search_steps == ticket.search_steps == 0


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


@pytest.mark.parametrize("rewind", REWINDS)
def test_signs_and_magnitudes_may_be_kept_apart(rewind: str, lab: Callable[[str], Lab]) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training
        drawn = [found.of("random_constant", seed, level, d).training.start for d in (0, 1)]
        for name, mask in ticket.mask.items():
            old = ticket.start.weights[name][mask]
            signs = [d.weights[name][mask].sign() for d in drawn]
            assert not torch.equal(signs[0], signs[1]) and not torch.equal(signs[0], old.sign())
            assert all(len(d.weights[name][mask].abs().unique()) == 1 for d in drawn)
            for draw in (0, 1):
                moved = found.of("reshuffled_magnitudes", seed, level, draw).training.start
                mine = moved.weights[name][mask]
                assert torch.equal(mine.sign(), old.sign()) and not torch.equal(mine, old)
                assert torch.equal(mine.abs().sort().values, old.abs().sort().values)


def test_faults_of_constant_signs() -> None:
    with pytest.raises(ValueError, match="signs: got 'none', allowed: ticket, random"):
        ConstantSign(signs="none")
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1 .nothing is drawn."):
        ConstantSign(draws=2)


@pytest.mark.parametrize("rewind", REWINDS)
def test_inverted_scores_keep_the_lowest_of_the_parents_survivors(
    rewind: str, lab: Callable[[str], Lab]
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        parent = found.of("ticket", seed, level - 1).stored
        ticket = found.of("ticket", seed, level).training.mask
        row = found.of("inverted_scores", seed, level)
        for name, mask in row.training.mask.items():
            before, magnitude = parent.mask()[name], parent.state("end").weights[name].abs()
            assert int(mask.sum()) == int(ticket[name].sum()) and not bool((mask & ~before).any())
            assert magnitude[mask].max() <= magnitude[before & ~mask].min()


def test_inverted_scores_are_scored_in_as_many_steps_as_the_ticket(
    make_search: Any, make_workshop: Any
) -> None:
    """Magnitudes of one state do not move, so that several steps end where one does."""
    ends = []
    for steps in (1, 3):
        search = make_search(levels=1, score_steps=steps, baselines={"x": InvertedScores()})
        _, (_, control) = search.run(make_workshop())
        ends.append(dict(control.training.mask))
    assert same(*ends)


def test_the_lowest_scores_need_the_parents_end(make_search: Any) -> None:
    assert _reads_parent_end(make_search(baselines={"x": InvertedScores()}))
    assert not _reads_parent_end(make_search(baselines={"x": ShuffledMask()}))


LAYERS = {"a": "conv", "b": "linear", "c": "output"}


@pytest.mark.parametrize(
    ("total", "counts"),
    [
        # L = 3: ratios 12, 6 and 2; 30 % of c is 15; a and b want 12 * 100 and 6 * 200.
        (75, {"a": 30, "b": 30, "c": 15}),
        (265, {"a": 100, "b": 150, "c": 15}),  # a is whole, b takes the rest
        (20, {"a": 5, "b": 5, "c": 10}),  # c takes half at most
        (340, {"a": 100, "b": 200, "c": 40}),  # what a and b have no room for
        (0, {"a": 0, "b": 0, "c": 0}),
    ],
)
def test_smart_ratios_worked_by_hand(total: int, counts: dict[str, int]) -> None:
    sizes = {"a": 100, "b": 200, "c": 50}
    assert smart_counts(sizes, LAYERS, total, output=0.3, decay=0) == counts


def test_smart_ratios_of_vggs_fall_faster() -> None:
    """Ratios 12 / 1 and 6 / 4, so that a and b want 1200 and 300 of the 60 beside the output's."""
    counts = smart_counts({"a": 100, "b": 200, "c": 50}, LAYERS, 75, output=0.3, decay=2)
    assert counts == {"a": 48, "b": 12, "c": 15}


def test_smart_ratio_spends_the_tickets_total_layer_by_layer(lab: Callable[[str], Lab]) -> None:
    found = lab("weights")
    sizes = {"conv1.weight": 36, "conv2.weight": 216, "fc.weight": 18}
    layers = dict(zip(sizes, ("conv", "conv", "output"), strict=True))
    for seed, level in PLACES:
        ticket = found.of("ticket", seed, level).training.mask
        expected = smart_counts(sizes, layers, masks.remaining(ticket), output=0.3, decay=0)
        for draw in (0, 1):
            mask = found.of("smart_ratio", seed, level, draw).training.mask
            assert {n: int(m.sum()) for n, m in mask.items()} == expected
    assert expected["fc.weight"] == 5


def test_smart_ratio_leaves_excluded_layers_whole(make_search: Any, make_workshop: Any) -> None:
    search = make_search(levels=1, exclude=["conv1.weight"], baselines={"x": SmartRatio()})
    _, (ticket, control) = search.run(make_workshop())
    assert bool(control.training.mask["conv1.weight"].all())
    assert masks.remaining(control.training.mask) == masks.remaining(ticket.training.mask)


def test_crossed_times_are_a_mask_and_a_state_of_the_dense_network(
    lab: Callable[[str], Lab], dense_state: Callable[..., TrainState]
) -> None:
    found = lab("weights")
    for seed, level in PLACES:
        initial, end = found.search.theta_0(seed), dense_state(found, seed, T)
        ticket = found.of("ticket", seed, level).training.mask
        early = found.of("early_mask", seed, level).training
        for name, mask in early.mask.items():
            kept = initial.weights[name].abs()[mask]
            assert len(kept) == int(ticket[name].sum())
            assert kept.min() >= initial.weights[name].abs()[~mask].max()
        assert same_network(early.start, masks.apply_state(end, early.mask))
        late = found.of("early_weights", seed, level).training
        assert same(dict(late.mask), dict(ticket))
        assert same_network(late.start, masks.apply_state(initial, ticket))
        assert (late.first_step, late.start.step) == (early.first_step, early.start.step) == (K, K)


def test_a_mask_may_be_scored_at_theta_k(
    make_search: Any, make_workshop: Any, train_plainly: Any
) -> None:
    crossed = {"x": CrossedTimes(mask="k", weights="k")}
    search = make_search(levels=1, baselines=crossed)
    _, (_, control) = search.run(make_workshop())
    rewound = train_plainly(search.dense(0), scheduled, last_step=K)
    for name, mask in control.training.mask.items():
        magnitude = rewound.weights[name].abs()
        assert magnitude[mask].min() >= magnitude[~mask].max()
    assert same_network(control.training.start, masks.apply_state(rewound, control.training.mask))


def test_the_ticket_is_no_control_of_itself(make_search: Any) -> None:
    crossed = CrossedTimes(mask="ticket", weights="init")
    crossed.check(make_search())
    crossed.check(make_search(rewind_step=0, rewind=Matrix(weights="final")))
    with pytest.raises(ValueError, match="weights: got 'init' with mask=ticket, allowed: end"):
        crossed.check(make_search(rewind_step=0))
    with pytest.raises(ValueError, match="allowed: k, end"):
        crossed.check(make_search(rewind=Matrix(weights="initial")))
    CrossedTimes(mask="init", weights="init").check(make_search(rewind_step=0))


def test_an_early_mask_needs_scores_of_a_state(make_search: Any) -> None:
    moving = make_search(criterion=MovementSanh())
    CrossedTimes(mask="ticket", weights="init").check(moving)
    with pytest.raises(ValueError, match="baseline mask: got 'init', allowed: ticket"):
        CrossedTimes(mask="init", weights="end").check(moving)


@pytest.mark.parametrize("rewind", ["weights", "learning_rate"])
@pytest.mark.parametrize("variant", ["corrupted_labels", "corrupted_pixels"])
def test_a_corrupted_mask_is_that_of_the_parent_trained_on_corrupted_data(
    variant: str, rewind: str, lab: Callable[[str], Lab], train_plainly: Any
) -> None:
    found = lab(rewind)
    for seed, level in PLACES:
        parent, own = found.of("ticket", seed, level - 1), found.of("ticket", seed, level)
        for draw in (0, 1):
            row = found.of(variant, seed, level, draw)
            key = ("control", seed, level, draw, "corrupt")
            number = int(torch.randint(2**62, (), generator=generator(*key)))
            labels = variant == "corrupted_labels"
            task = corrupt(parent.training.task, labels=labels, pixels=not labels, seed=number)
            end = train_plainly(parent.training.replace(task=task), scheduled)
            for name, mask in row.training.mask.items():
                before, magnitude = parent.training.mask[name], end.weights[name].abs()
                assert not bool((mask & ~before).any())
                assert int(mask.sum()) == int(own.training.mask[name].sum())
                assert magnitude[mask].min() >= magnitude[before & ~mask].max()
            assert row.training.task is own.training.task
            assert row.search_steps == own.search_steps


def test_where_the_corrupted_training_diverges_so_does_the_control(
    lab: Callable[[str], Lab], make_workshop: Any
) -> None:
    @dataclass
    class Diverged:
        status: str = "diverged"

    found = lab("weights")
    ticket, dense = found.of("ticket", 0, 1), found.of("ticket", 0, 0)
    control = found.search.control(
        CorruptedTask(),
        ticket.training,
        found.search.history(dense.stored, dense.stored, 0),
        seed=0,
        level=1,
        draw=0,
        train=lambda training, watch: Diverged(),
        parent=dense.training,
        cost=T,
    )
    (stored,) = make_workshop().complete([control])
    assert stored.status == "diverged" and stored.done["updates"] == 0


def test_dense_total_takes_the_steps_of_search_and_training(lab: Callable[[str], Lab]) -> None:
    found = lab("weights")
    for level, total in ((1, 14 + 9), (2, 14 + 9 + 9)):
        row, ticket = found.of("dense_total", 0, level), found.of("ticket", 0, level)
        assert ticket.search_steps + ticket.training.updates == total
        assert row.training.updates == row.training.learning_rate.total == total
        assert row.search_steps == 0
        assert same_network(row.training.start, found.search.theta_0(0))
        assert all(bool(m.all()) for m in row.training.mask.values())


def test_a_stretched_schedule_drops_at_the_same_parts() -> None:
    """10 of 14 is 20 of 28 and 5 of 7."""
    shape = MultiStep(milestones=("10it",), gamma=0.5)
    double, half = Stretched(shape=shape, total=14), Stretched(shape=shape, total=14)
    assert [double(s, 28) for s in (0, 19, 20, 27)] == [1, 1, 0.5, 0.5]
    assert [half(s, 7) for s in (0, 4, 5, 6)] == [1, 1, 0.5, 0.5]
    assert [double(s, 14) for s in range(14)] == [shape(s, 14) for s in range(14)]


def test_small_dense_is_the_width_nearest_to_the_tickets_weights(
    make_search: Any, make_workshop: Any, TinyBatchNorm: Any, train_plainly: Any
) -> None:
    """9 w^2 + 30 w + 6 weights: 45, 102, 177 and 270. Tickets have 166 and 102."""
    search = make_search(baselines={"small_dense": SmallDense(draws=2)})
    rows = [r for level in search.run(make_workshop()) for r in level]
    expected = {1: (166, 3, 177), 2: (102, 2, 102)}
    for level, (ticket_weights, width, weights) in expected.items():
        ticket, *small = [r for r in rows if r.level == level]
        assert masks.remaining(ticket.training.mask) == ticket_weights
        for draw, row in enumerate(small):
            training = row.training
            assert training.model.keywords == {"width": width}
            assert masks.remaining(training.mask) == masks.size(training.mask) == weights
            fresh = generator("control", 0, level, draw, "fresh")
            theta = initial_state(training.model, search.tasks[0], search.init, fresh)
            assert same_network(training.start, theta)
            assert (training.first_step, training.last_step, row.search_steps) == (0, T, 0)
            kept = ("task", "optimizer", "learning_rate", "streams", "eval_every", "events")
            assert all(getattr(training, n) == getattr(ticket.training, n) for n in kept)
            assert same_network(row.stored.state("end"), train_plainly(training, scheduled))
        assert len({r.training.id for r in small}) == 2


def test_what_cannot_be_made_is_refused_before_anything_is_trained(make_search: Any) -> None:
    with pytest.raises(ValueError, match="model: got ResNet18, allowed: one with the option width"):
        SmallDense().check(make_search(model=functools.partial(ResNet18, stem="cifar")))
    SmallDense().check(make_search())
    for baseline in (InvertedScores(), CorruptedTask()):
        baseline.check(make_search())
        with pytest.raises(ValueError, match="finder: got early_bird, allowed: null"):
            baseline.check(make_search(finder=EarlyBird()))


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
            elif name in MASKS:
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
                values = training.start.weights["conv2.weight"][common]
                # Signs are the tickets' (and differ between seeds) unless they are what is drawn.
                drawn.add(tuple((values if "constant" in name else values.abs()).tolist()))
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
    assert with_slots == {"ticket", "other_order", *MASKS}


@pytest.mark.parametrize("baseline", [type(b) for b in DRAWN.values()])
def test_draws_are_1_or_more(baseline: type) -> None:
    with pytest.raises(ValueError, match="draws: got 0, allowed: 1 or more"):
        baseline(draws=0)


def test_what_draws_nothing_has_one_draw() -> None:
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        Sham(draws=2)
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        SameMask(rewind=Matrix(), draws=2)
    for control in (ConstantSign, InvertedScores, DenseTotal):
        with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
            control(draws=2)
    with pytest.raises(ValueError, match="draws: got 2, allowed: 1"):
        CrossedTimes(mask="init", weights="end", draws=2)


def test_options_name_what_they_allow() -> None:
    with pytest.raises(ValueError, match="origin: got 'dense', allowed: init, dense_k, k"):
        RandomReinit(origin="dense")
    with pytest.raises(ValueError, match="origin: got 'dense_k', allowed: init, k"):
        SparseReinit(origin="dense_k")
    with pytest.raises(ValueError, match="scale: got 'std', allowed: init, start"):
        ConstantSign(scale="std")
    with pytest.raises(ValueError, match="output: got 0, allowed"):
        SmartRatio(output=0)
    with pytest.raises(ValueError, match="decay: got -1, allowed: 0 or more"):
        SmartRatio(decay=-1)
    with pytest.raises(ValueError, match="mask: got 'end', allowed: init, k, ticket"):
        CrossedTimes(mask="end", weights="end")
    with pytest.raises(ValueError, match="weights: got 'ticket', allowed: init, k, end"):
        CrossedTimes(mask="init", weights="ticket")
    with pytest.raises(ValueError, match="labels: got 'some', allowed: random, true"):
        CorruptedTask(labels="some")
    with pytest.raises(ValueError, match="pixels: got 'random', allowed: true, shuffled"):
        CorruptedTask(pixels="random")
    with pytest.raises(ValueError, match="labels: got 'true', allowed: random"):
        CorruptedTask(labels="true")
