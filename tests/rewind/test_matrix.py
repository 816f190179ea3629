"""Every cell of the rewinding matrix, bit for bit, on a BatchNorm net with momentum and warm-up.

The cells rewind level 2, whose parent (level 1) is not the dense network. T = 14,
k = 5; the rate rises over 10 updates to 0.1 and is 0.05 from step 10 on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lth import mask as masks
from lth.complete import Watch, Workshop
from lth.history import History
from lth.protocol import Rewind
from lth.rewind.matrix import Matrix
from lth.search import Search
from lth.stream import generator
from lth.training import Training, initial_state
from lth.types import Mask, TrainState

CONF = Path(__file__).parents[2] / "conf" / "rewind"
BASE, T, K = 0.1, 14, 5


def scheduled(step: int) -> float:
    """The learning rate of the tiny search, written out."""
    return BASE * ((step + 1) / 10 if step < 10 else 0.5)


def held(step: int) -> float:
    """The rate of update T - 1."""
    return BASE * 0.5


# schedule, updates -> first and last step, rate of the first and of the last update
SPANS = {
    ("restart", None): (0, 14, 0.01, 0.05),
    ("restart", "4it"): (0, 4, 0.01, 0.04),
    ("restart", "9it"): (0, 9, 0.01, 0.09),
    ("continue", None): (5, 14, 0.06, 0.05),
    ("continue", "1ep"): (5, 9, 0.06, 0.09),
    ("hold", None): (5, 14, 0.05, 0.05),
    ("hold", "4it"): (5, 9, 0.05, 0.05),
    ("hold", "14it"): (5, 19, 0.05, 0.05),
}
CELLS = list(product(["initial", "rewound", "final"], SPANS, ["fresh", "saved"], ["same", "other"]))


@dataclass(frozen=True, kw_only=True)
class Lab:
    """Levels 0 and 1 trained, level 2 pruned, and the true states by plain PyTorch."""

    search: Search
    workshop: Workshop
    dense: Training
    parent: Training
    history: History
    mask: Mask
    theta_0: TrainState
    theta_k: TrainState
    dense_end: TrainState
    parent_end: TrainState


@pytest.fixture(scope="module")
def lab(make_search: Any, make_workshop: Any, train_plainly: Any) -> Lab:
    search = make_search(levels=1, watch=Watch(keep=frozenset({K}), keep_optimizer=True))
    workshop = make_workshop()
    (dense,), (parent,) = search.run(workshop)
    history = search.history(dense.stored, parent.stored, 0)
    init = generator("init", 0)
    return Lab(
        search=search,
        workshop=workshop,
        dense=dense.training,
        parent=parent.training,
        history=history,
        mask=search.pruner.prune(history, parent.training, 0, 2),
        theta_0=initial_state(search.model, search.tasks[0], search.init, init),
        theta_k=train_plainly(dense.training, scheduled, last_step=K),
        dense_end=train_plainly(dense.training, scheduled),
        parent_end=train_plainly(parent.training, scheduled),
    )


def same(a: Any, b: Any) -> bool:
    """Bit-equal tensors under equal names."""
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def same_network(a: TrainState, b: TrainState) -> bool:
    return same(a.weights, b.weights) and same(a.buffers, b.buffers)


def rewound(lab: Lab, rewind: Any) -> Training:
    search = lab.search
    other = Search(**{**fields(search), "rewind": rewind})
    return other.ticket(lab.history, lab.parent, lab.mask, seed=0, level=2)


def fields(search: Search) -> dict[str, Any]:
    return {n: getattr(search, n) for n in Search.__dataclass_fields__ if not n.startswith("_")}


def test_the_history_is_what_plain_pytorch_trains(lab: Lab) -> None:
    history = lab.history
    assert same_network(history.initial, lab.theta_0)
    assert same_network(history.rewound, lab.theta_k)
    assert same(history.rewound.optimizer, lab.theta_k.optimizer)
    assert same_network(history.dense_end, lab.dense_end)
    assert same_network(history.parent_start, masks.apply_state(lab.theta_k, lab.parent.mask))
    assert same_network(history.parent_end, lab.parent_end)
    assert [history.rewound.step, history.dense_end.step, history.parent_end.step] == [5, 14, 14]


@pytest.mark.parametrize(("weights", "span", "optimizer", "statistics"), CELLS)
def test_a_cell_trains_what_plain_pytorch_trains(
    lab: Lab,
    weights: str,
    span: tuple[str, str | None],
    optimizer: str,
    statistics: str,
    make_workshop: Any,
    train_plainly: Any,
    watch_updates: Any,
) -> None:
    schedule, updates = span
    first, last, first_rate, last_rate = SPANS[span]
    cell = Matrix(
        weights=weights,
        schedule=schedule,
        updates=updates,
        optimizer=optimizer,
        statistics=statistics,
    )
    ticket = rewound(lab, cell)
    with watch_updates() as seen:
        (stored,) = make_workshop().complete([ticket])

    # The span and the learning rate.
    assert (ticket.first_step, ticket.last_step) == (first, last)
    assert (stored.done["first_step"], stored.done["last_step"]) == (first, last)
    assert stored.done["updates"] == len(seen.rates) == last - first
    assert [seen.rates[0], seen.rates[-1]] == pytest.approx([first_rate, last_rate], rel=1e-12)

    # The start, as stored and as torch saw it.
    source = {"initial": lab.theta_0, "rewound": lab.theta_k, "final": lab.parent_end}[weights]
    other = lab.theta_k if weights == "final" else lab.parent_end
    statistic = (source if statistics == "same" else other).buffers
    start = stored.state("start")
    assert start.step == first
    assert same(start.weights, masks.apply(source.weights, lab.mask))
    assert same(start.buffers, statistic)
    names = list(lab.theta_0.weights)  # in the order of the module
    assert same(dict(zip(names, seen.weights, strict=True)), start.weights)
    count = {"initial": 0, "rewound": 5, "final": 14}[weights]
    if statistics == "other":
        count = 5 if weights == "final" else 14
    tracked = [int(b) for n, b in start.buffers.items() if n.endswith("num_batches_tracked")]
    assert tracked == [count, count]

    # The optimizer's slots.
    if optimizer == "fresh":
        assert start.optimizer is None
        assert seen.slots == [{}] * 9
    else:
        momentum = {
            f"{n}/momentum_buffer": m
            for n, m in masks.apply(
                {k.rpartition("/")[0]: v for k, v in lab.theta_k.optimizer.items()}, lab.mask
            ).items()
        }
        assert same(start.optimizer, momentum)
        loaded = [slots["momentum_buffer"] for slots in seen.slots]
        assert same(
            {f"{n}/momentum_buffer": v for n, v in zip(names, loaded, strict=True)}, momentum
        )
        assert all(bool(m.any()) for m in momentum.values())

    # The end.
    end = stored.state("end")
    plain = train_plainly(ticket, held if schedule == "hold" else scheduled)
    assert same_network(end, plain)
    assert all(not bool(end.weights[n][~m].any()) for n, m in lab.mask.items())
    tracked = [int(b) for n, b in end.buffers.items() if n.endswith("num_batches_tracked")]
    assert tracked == [count + last - first] * 2


def test_all_cells_differ(lab: Lab) -> None:
    cells = [
        Matrix(weights=w, schedule=s, updates=u, optimizer=o, statistics=t)
        for w, (s, u), o, t in CELLS
    ]
    assert len(cells) == 3 * 8 * 2 * 2
    assert len({rewound(lab, c).id for c in cells}) == len(cells)


def test_saved_state_with_a_full_mask_goes_on_like_the_dense_network(
    lab: Lab, make_workshop: Any
) -> None:
    """Everything that matters at step k comes back: dense training is continued to the bit."""
    ticket = rewound(lab, Matrix(optimizer="saved"))
    again = ticket.replace(
        mask=lab.dense.mask, start=lab.history.rewound, streams=lab.dense.streams
    )
    (stored,) = make_workshop().complete([again])
    assert same_network(stored.state("end"), lab.dense_end)
    fresh = again.replace(start=TrainState(**{**vars(lab.history.rewound), "optimizer": None}))
    (stored,) = make_workshop().complete([fresh])
    assert not same_network(stored.state("end"), lab.dense_end)


def test_clipping_and_momentum_see_survivors_only(
    lab: Lab, make_workshop: Any, train_plainly: Any
) -> None:
    """Plain PyTorch masks the gradients before it takes their norm; so does the engine."""
    ticket = rewound(lab, Matrix(optimizer="saved")).replace(grad_clip=0.1)
    (stored,) = make_workshop().complete([ticket], Watch(keep=frozenset({9}), keep_optimizer=True))
    assert same_network(stored.state("end"), train_plainly(ticket, scheduled))
    at_9 = train_plainly(ticket, scheduled, last_step=9)
    assert same(stored.state(9).optimizer, at_9.optimizer)


# name -> weights, first and last step, rate of the first and of the last update
PROTOCOLS = {
    "weights": ("theta_k", 5, 14, 0.06, 0.05),
    "learning_rate": ("parent_end", 5, 14, 0.06, 0.05),
    "finetune": ("parent_end", 5, 14, 0.05, 0.05),
    "low_lr": ("theta_k", 5, 14, 0.05, 0.05),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_named_protocol_is_its_row_of_the_table(
    name: str, lab: Lab, make_workshop: Any, watch_updates: Any
) -> None:
    source, first, last, first_rate, last_rate = PROTOCOLS[name]
    ticket = rewound(lab, instantiate(OmegaConf.load(CONF / f"{name}.yaml")))
    with watch_updates() as seen:
        (stored,) = make_workshop().complete([ticket])
    expected = masks.apply_state(getattr(lab, source), lab.mask)
    assert same_network(stored.state("start"), expected)
    assert stored.state("start").optimizer is None
    assert (ticket.first_step, ticket.last_step, len(seen.rates)) == (first, last, last - first)
    assert [seen.rates[0], seen.rates[-1]] == pytest.approx([first_rate, last_rate], rel=1e-12)


def test_every_yaml_is_a_rewind(lab: Lab) -> None:
    files = sorted(CONF.rglob("*.yaml"))
    assert {f.stem for f in files} >= PROTOCOLS.keys()
    for file in files:
        rewind = instantiate(OmegaConf.load(file))
        assert isinstance(rewind, Rewind)
        assert rewound(lab, rewind).updates > 0, file.name


def test_at_k_0_rewound_is_initial_and_nothing_is_skipped(lab: Lab, make_search: Any) -> None:
    """Frankle and Carbin (2019): theta_0 and the whole schedule."""
    history = make_search(rewind_step=0).history(lab.history.dense, lab.history.parent, 0)
    ends = {"initial": lab.theta_0, "rewound": lab.theta_0, "final": lab.parent_end}
    for weights, state in ends.items():
        for schedule in ("restart", "continue", "hold"):
            found = Matrix(weights=weights, schedule=schedule)(history)
            assert (found.first_step, found.last_step, found.state.step) == (0, 14, 0)
            assert found.hold == (schedule == "hold")
            assert same_network(found.state, state)
    with pytest.raises(ValueError, match="optimizer: got 'saved', allowed: fresh .* step 0 "):
        Matrix(optimizer="saved")(history)


def test_saved_slots_are_never_replaced_by_fresh_ones_silently(
    make_search: Any, make_workshop: Any
) -> None:
    search = make_search(levels=1)
    (dense,), (ticket,) = search.run(make_workshop())
    with pytest.raises(ValueError, match="optimizer: got 'saved', allowed: fresh .* step 5 "):
        Matrix(optimizer="saved")(search.history(dense.stored, ticket.stored, 0))


def test_saved_adam_slots_are_masked_and_their_counter_kept(
    make_search: Any, make_workshop: Any, watch_updates: Any
) -> None:
    search = make_search(
        levels=1,
        rewind=Matrix(optimizer="saved"),
        optimizer=functools.partial(torch.optim.Adam, lr=0.01),
    )
    workshop = make_workshop()
    (dense,), (row,) = search.run(workshop)
    start = row.stored.state("start")
    kept = dense.stored.state(K).optimizer
    assert start.optimizer.keys() == kept.keys()
    for key, value in start.optimizer.items():
        name, _, slot = key.rpartition("/")
        mask = row.training.mask.get(name)
        if slot == "step":
            assert float(value) == K
        else:
            assert torch.equal(value, kept[key] if mask is None else kept[key] * mask), key
            assert mask is None or not bool(value[~mask].any())
    with watch_updates() as seen:
        make_workshop().complete([row.training])
    assert [float(s["step"]) for s in seen.slots] == [K] * 9


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weights": "theta"}, "weights: got 'theta', allowed: initial, rewound, final"),
        ({"schedule": ""}, "schedule: got ''"),
        ({"optimizer": "reset"}, "optimizer: got 'reset'"),
        ({"statistics": None}, "statistics: got None"),
        ({"updates": "0it"}, "updates: got 0it"),
        ({"updates": 5}, "updates: got 5, allowed: a step such as"),
    ],
)
def test_a_faulty_choice_is_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Matrix(**options)


@pytest.mark.parametrize(
    ("schedule", "updates", "left"), [("restart", "15it", 14), ("continue", "10it", 9)]
)
def test_a_span_cannot_outrun_its_schedule(schedule: str, updates: str, left: int) -> None:
    where = {"rewind_step": K, "train_steps": T, "updates_per_epoch": 4}
    with pytest.raises(ValueError, match=f"got {updates}, allowed: 1it to {left}it"):
        Matrix(schedule=schedule, updates=updates).span(**where)
    assert Matrix(schedule="hold", updates=updates).span(**where) == (K, K + int(updates[:-2]))
