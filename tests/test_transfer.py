"""A ticket of another run as level 1: what is taken, what is re-drawn, what controls start from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from lth import mask as masks
from lth.baseline.other_order import OtherOrder
from lth.baseline.random_mask import RandomMask
from lth.baseline.random_reinit import RandomReinit
from lth.baseline.same_mask import SameMask
from lth.baseline.sham import Sham
from lth.baseline.shuffled_mask import ShuffledMask
from lth.baseline.sign_reinit import SignReinit
from lth.build import Run, build
from lth.conduct import conduct
from lth.config import ConfigError
from lth.copies import reopen
from lth.granularity.units import Units
from lth.granularity.weights import SingleWeights
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.rewind.matrix import Matrix
from lth.run import register
from lth.store.run_folder import Reference, RunFolder, locate
from lth.store.stored import Stored
from lth.transfer import Import, Source, fit, of_units, read_source
from lth.types import TrainState

TINY = [
    "dataset=synthetic",
    "dataset.validation=64",
    "train_steps=8it",
    "rewind_step=3it",
    "eval_every=4it",
    "batch_size=32",
    "baseline=[]",
    "sink=[]",
    "order=shared",
    "report=false",
]


def composed(root: Path, *overrides: str) -> Run:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return build(compose("run", overrides=[*TINY, f"store.root={root}", *overrides]))


def conducted(root: Path, *overrides: str) -> RunFolder:
    return RunFolder(root, conduct(composed(root, *overrides), None, report=False))


def same(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two seeds, two levels, rewound to step 3."""
    root = tmp_path_factory.mktemp("transfer") / "results"
    return conducted(root, "seeds=[0,1]", "levels=2")


@pytest.fixture(scope="module")
def brought(source: RunFolder) -> Callable[..., Run]:
    """``brought(*overrides)``: a run of one level with the source's level 2 of seed 0."""

    def run(*overrides: str, path: str | None = None) -> Run:
        path = path or place(source)
        given = ["levels=1", "seeds=[0]", f"ticket.source={path}", *overrides]
        return composed(source.store_root, *given)

    return run


def place(source: RunFolder, seed: int = 0, level: int = 2) -> str:
    return f"{source.run_id[:8]}/seed_{seed:03d}/ticket/level_{level:02d}"


def stored(folder: RunFolder, seed: int, level: int) -> Stored:
    return locate(folder.file(seed, "ticket", level, 0)).stored()


def reference(folder: RunFolder, seed: int, level: int, variant: str = "ticket") -> Reference:
    found = locate(folder.file(seed, variant, level, 0)).reference
    assert found is not None
    return found


# What is read


def test_a_ticket_on_its_own_task_is_the_very_training_it_came_from(source: RunFolder) -> None:
    # All seeds share one data order over levels, so nothing but mask and start could differ.
    paths = ",".join(place(source, seed) for seed in (0, 1))
    own = conducted(source.store_root, "levels=1", "seeds=[0,1]", f"ticket.source=[{paths}]")
    assert own.run_id != source.run_id
    for seed in (0, 1):
        for level, came_from in ((0, 0), (1, 2)):
            old, new = reference(source, seed, came_from), reference(own, seed, level)
            assert new.training == old.training
            assert new.search_steps == old.search_steps
        assert reference(own, seed, 1).parent_level == 0
    # Opened again for its copies, from what JSON made of the configuration.
    run, search = reopen(own)
    assert run.run_id == own.run_id
    assert {s: i.name[-11:] for s, i in search.imports.items()} == {
        0: "et/level_02",
        1: "et/level_02",
    }
    run, search = reopen(own, seeds=[1])
    assert same(search.imports[1].mask, stored(source, 1, 2).mask())


def test_the_starts_are_what_they_are_called(source: RunFolder) -> None:
    dense, ticket = stored(source, 0, 0), stored(source, 0, 2)
    wanted = {
        "init": (dense.state("start"), dense.state("start"), 0),
        "rewound": (dense.state(3), dense.state(3), 3),
        "end": (ticket.state("end"), dense.state("end"), 8 + 5 + 5),
    }
    for start, (values, whole, spent) in wanted.items():
        found = read_source([place(source)], source.store_root, start=start)
        assert found.mask is not None and same(found.mask, ticket.mask())
        assert found.start is not None and same(found.start.weights, values.weights)
        assert found.dense is not None and same(found.dense.weights, whole.weights)
        assert found.start.optimizer is None
        # Two searches of 8 and 5 updates found the mask; the values may cost more.
        assert found.cost == max(8 + 5, spent)
        assert found.final == (start == "end")
    mask_only = read_source([place(source)], source.store_root, weights=False)
    assert (mask_only.start, mask_only.dense, mask_only.cost) == (None, None, 13)
    weights_only = read_source([place(source)], source.store_root, mask=False)
    assert (weights_only.mask, weights_only.cost) == (None, 3)


def test_digests_enter_the_run_id_and_paths_do_not(
    source: RunFolder, brought: Callable[..., Run]
) -> None:
    first = brought().run_id
    link = str(source.file(0, "ticket", 2, 0).with_suffix(""))
    assert brought(path=link).run_id == first
    assert brought(path=f"[{link}.json]").run_id == first
    others = [
        brought(path=place(source, level=1)).run_id,
        brought(path=place(source, seed=1)).run_id,
        *(brought(f"ticket.{o}").run_id for o in ("start=init", "start=end")),
        *(brought(f"ticket.{o}=false").run_id for o in ("mask", "weights")),
        brought("seeds=[0,1]", path=f"[{place(source)},{place(source, seed=1)}]").run_id,
    ]
    assert len({first, *others}) == 1 + len(others)
    # One ticket for all seeds is one run, however many seeds.
    assert brought("seeds=[4,5]").run_id == first


def test_a_ticket_that_was_rewound_to_nothing_stored_has_no_theta_k(source: RunFolder) -> None:
    root = source.store_root
    final = conducted(root, "seeds=[0]", "levels=1", "rewind=learning_rate")
    with pytest.raises(ValueError, match="start: got 'rewound', but .* allowed: init, end"):
        read_source([place(final, level=1)], root)
    assert read_source([place(final, level=1)], root, start="init").start is not None


def test_the_slots_of_the_source_do_not_come_along(tmp_path: Path) -> None:
    saved = conducted(tmp_path, "seeds=[0]", "levels=1", "rewind.optimizer=saved")
    assert stored(saved, 0, 1).state("start").optimizer
    found = read_source([place(saved, level=1)], tmp_path)
    assert found.start is not None and found.start.optimizer is None
    assert same(found.start.weights, stored(saved, 0, 0).state(3).weights)


def test_states_that_were_removed_are_named(tmp_path: Path) -> None:
    thin = conducted(tmp_path, "seeds=[0]", "levels=2", "store.keep_tensors=masks")
    path = place(thin, level=1)
    with pytest.raises(ValueError, match=r"start: got 'end', allowed: a state that .* still has"):
        read_source([path], tmp_path, start="end")
    # The dense network stays, and so does the digest of what the ticket started from.
    found = read_source([path], tmp_path)
    assert found.start is not None
    assert same(found.start.weights, stored(thin, 0, 0).state(3).weights)


# How it is fitted


def state(**shapes: tuple[int, ...]) -> TrainState:
    """Values drawn by name; ``mean`` is a buffer."""
    tensors = {n.replace("_", "."): torch.rand(s) for n, s in shapes.items()}
    buffers = {n: tensors.pop(n) for n in [*tensors] if n.endswith("mean")}
    return TrainState(step=0, weights=tensors, buffers=buffers)


SHAPES: dict[str, tuple[int, ...]] = {
    "fc_weight": (3, 4),
    "fc_bias": (3,),
    "norm_mean": (3,),
    "out_weight": (2, 3),
    "out_bias": (2,),
}
LAYERS = {"fc.weight": "linear", "out.weight": "output"}


def made(**changes: Any) -> Source:
    start = changes.pop("start", state(**SHAPES))
    weights = {} if start is None else start.weights
    half = {n: weights[n] < 0.5 for n in LAYERS if n in weights}
    given: dict[str, Any] = {"mask": half, "start": start, "dense": start, "cost": 7}
    return Source(name="r/t", **{**given, **changes})


def test_what_fits_is_taken_as_it_is() -> None:
    source, theta = made(), state(**SHAPES)
    found = fit(source, layers=LAYERS, theta=theta)
    assert found.start is not None and source.start is not None and source.mask is not None
    assert same(found.mask, source.mask) and same(found.start.weights, source.start.weights)
    assert same(found.start.buffers, source.start.buffers)
    assert (found.redrawn, found.cost, found.name) == ((), 7, "r/t")


@pytest.mark.parametrize(
    "head",
    [
        {"out_weight": (5, 3), "out_bias": (5,)},
        {"out_weight": (2, 6), "out_bias": (2,)},
        {"head_weight": (2, 3), "head_bias": (2,)},
    ],
    ids=["classes", "features", "name"],
)
def test_another_output_layer_is_redrawn_dense_and_counted(head: dict[str, Any]) -> None:
    shapes = {n: s for n, s in SHAPES.items() if not n.startswith("out")} | head
    values = state(**shapes)
    mask = {n: w < 0.5 for n, w in values.weights.items() if n.endswith("weight")}
    theta = state(**SHAPES)
    found = fit(made(start=values, mask=mask), layers=LAYERS, theta=theta)
    assert found.redrawn == ("out.weight", "out.bias")
    assert found.start is not None and found.dense is not None
    for own in (found.start, found.dense):
        assert list(own.weights) == list(theta.weights)
        for n, w in own.weights.items():
            assert torch.equal(w, (theta if n.startswith("out") else values).weights[n])
    assert bool(found.mask["out.weight"].all()) and list(found.mask) == list(LAYERS)
    assert torch.equal(found.mask["fc.weight"], mask["fc.weight"])
    # Counted: 6 weights of the output layer, kept.
    assert masks.size(found.mask) == 18
    assert masks.remaining(found.mask) == 6 + int(mask["fc.weight"].sum())


def test_layers_that_do_not_fit_are_named_all_together() -> None:
    wrong = {**SHAPES, "fc_weight": (3, 9), "norm_mean": (4,), "more_weight": (1, 1)}
    with pytest.raises(ValueError, match="^source: got") as raised:
        fit(made(start=state(**wrong)), layers=LAYERS, theta=state(**SHAPES))
    assert str(raised.value).startswith(
        "source: got r/t, which does not fit this network at fc.weight ([3, 9] for [3, 4]), "
        "norm.mean ([4] for [3]), more.weight ([1, 1] for nothing), allowed: "
    )


def test_a_mask_alone_needs_only_its_layers() -> None:
    mask = {"fc.weight": torch.eye(3, 4).bool(), "out.weight": torch.zeros(9, 3).bool()}
    found = fit(made(mask=mask, start=None, dense=None), layers=LAYERS, theta=state(**SHAPES))
    assert (found.start, found.dense, found.redrawn) == (None, None, ("out.weight", "out.bias"))
    assert torch.equal(found.mask["fc.weight"], mask["fc.weight"])
    del mask["fc.weight"]
    with pytest.raises(ValueError, match=r"at fc.weight \(nothing for \[3, 4\]\)"):
        fit(made(mask=mask, start=None), layers=LAYERS, theta=state(**SHAPES))


def test_weights_alone_come_without_a_mask_and_excluded_layers_stay_whole() -> None:
    source, theta = made(), state(**SHAPES)
    bare = fit(dataclasses.replace(source, mask=None), layers=LAYERS, theta=theta)
    assert masks.density(bare.mask) == 1 and bare.start is not None
    every = SingleWeights(layers=LAYERS, excluded=frozenset())
    free = SingleWeights(layers={"out.weight": "output"}, excluded=frozenset({"fc.weight"}))
    part = of_units(fit(source, layers=LAYERS, theta=theta), every, free, LAYERS)
    assert source.mask is not None
    assert bool(part.mask["fc.weight"].all())
    assert torch.equal(part.mask["out.weight"], source.mask["out.weight"])


# What is trained


CONTROLS = {
    "reinit": RandomReinit(),
    "shuffled_mask": ShuffledMask(),
    "random_mask": RandomMask(),
    "sign_reinit": SignReinit(),
    "same_mask": SameMask(rewind=Matrix()),
    "other_order": OtherOrder(),
    "sham": Sham(),
}


@pytest.fixture(scope="module")
def lab(make_search: Any, make_workshop: Any) -> dict[str, Any]:
    """A tiny search of one level with an imported ticket whose output layer was re-drawn."""
    search = make_search(levels=1, baselines=CONTROLS, rewind_step=0)
    theta = search.theta_0(0)
    draw = torch.Generator().manual_seed(5)
    values = {
        n: w if n.startswith("fc.") else torch.rand(w.shape, generator=draw) - 0.5
        for n, w in theta.weights.items()
    }
    mask = {n: torch.rand(values[n].shape, generator=draw) < 0.3 for n in search.layers}
    mask["fc.weight"] = torch.ones_like(mask["fc.weight"])
    buffers = {n: b + 1 if b.is_floating_point() else b for n, b in theta.buffers.items()}
    start = TrainState(step=9, weights=values, buffers=buffers)
    own = Import(
        name="r/t",
        mask=mask,
        start=start,
        dense=start,
        redrawn=("fc.weight", "fc.bias"),
        cost=77,
    )
    search = dataclasses.replace(search, imports={0: own})
    rows = {r.variant: r for rows in search.run(make_workshop()) for r in rows if r.level == 1}
    return {"search": search, "own": own, "theta": theta, **rows}


def test_the_ticket_is_the_source_on_the_whole_schedule(lab: dict[str, Any]) -> None:
    training, own = lab["ticket"].training, lab["own"]
    assert same(training.mask, own.mask)
    assert same(training.start.weights, masks.apply(own.start.weights, own.mask))
    assert same(training.start.buffers, own.start.buffers)
    assert (training.first_step, training.last_step, training.start.step) == (0, 14, 0)
    assert (lab["ticket"].search_steps, lab["ticket"].parent_level) == (77, 0)


def test_every_control_is_drawn_from_the_source(lab: dict[str, Any]) -> None:
    ticket, own, theta = lab["ticket"].training, lab["own"], lab["theta"]
    of = {name: lab[name].training for name in CONTROLS}
    for name in ("reinit", "sign_reinit", "same_mask", "other_order"):
        assert same(of[name].mask, own.mask), name
    for name in ("shuffled_mask", "random_mask", "sham"):
        # The source's dense values under another mask, never the masked start.
        mask, start = of[name].mask, of[name].start
        assert same(start.weights, masks.apply(own.dense.weights, mask)), name
        assert same(start.buffers, own.dense.buffers), name
        assert bool(mask["fc.weight"].all()), name
    counts = {n: int(m.sum()) for n, m in own.mask.items()}
    assert {n: int(m.sum()) for n, m in of["shuffled_mask"].mask.items()} == counts
    assert masks.remaining(of["random_mask"].mask) == masks.remaining(own.mask)
    assert not same(of["shuffled_mask"].mask, own.mask)
    assert masks.density(of["sham"].mask) == 1
    # Fresh values are this run's; no source has any part in them.
    kept = own.mask["conv1.weight"]
    fresh = of["reinit"].start.weights["conv1.weight"][kept]
    assert not torch.equal(fresh, own.start.weights["conv1.weight"][kept])
    signs = of["sign_reinit"].start.weights["conv1.weight"][kept].sign()
    assert torch.equal(signs, own.start.weights["conv1.weight"][kept].sign())
    # same_mask: the source's mask on this run's own theta_0.
    assert same(of["same_mask"].start.weights, masks.apply(theta.weights, own.mask))
    assert same(of["other_order"].start.weights, ticket.start.weights)
    assert of["other_order"].streams != ticket.streams
    for name, control in of.items():
        assert (control.first_step, control.last_step) == (0, 14), name


def test_level_0_is_what_it_would_be_without_a_ticket(
    lab: dict[str, Any], make_search: Any
) -> None:
    assert lab["search"].dense(0).id == make_search(rewind_step=0).dense(0).id


def test_a_mask_alone_starts_where_this_run_rewinds_to(
    make_search: Any, make_workshop: Any, lab: dict[str, Any]
) -> None:
    own = dataclasses.replace(lab["own"], start=None, dense=None)
    search = make_search(levels=1, baselines={"sham": Sham()}, imports={0: own})
    store = make_workshop()
    rows = [r for rows in search.run(store) for r in rows]
    dense, ticket, sham = rows
    theta_5 = dense.stored.state(5)
    assert same(ticket.training.start.weights, masks.apply(theta_5.weights, own.mask))
    assert (ticket.training.first_step, ticket.training.last_step) == (5, 14)
    assert same(sham.training.start.weights, theta_5.weights)


def test_it_goes_to_other_classes(source: RunFolder, brought: Callable[..., Run]) -> None:
    run = brought("dataset.classes=6", "baseline=[shuffled_mask]", "optimizer=sgd")
    (own,) = prepare(run, read_data(run)).imports.values()
    assert own.redrawn == ("fc3.weight", "fc3.bias")
    folder = RunFolder(source.store_root, conduct(run, None, report=False))
    done = stored(folder, 0, 1).done
    assert done["num_classes"] == 6
    old = stored(source, 0, 2).done["layers"]
    assert done["layers"]["fc3.weight"] == {"kept": 600, "all": 600}
    assert done["layers"]["fc1.weight"] == old["fc1.weight"]


# Tickets of whole units


RESNET = ["model=resnet_20", "model.width=4", "seeds=[0]"]
UNITS = [*RESNET, "granularity=units"]


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """One seed, two levels of channels."""
    return conducted(tmp_path_factory.mktemp("units") / "results", *UNITS, "levels=2")


def test_a_ticket_of_units_is_the_very_training_it_came_from(units: RunFolder) -> None:
    """Biases and norms of the units that are gone are gone here too."""
    path = f"ticket.source={place(units)}"
    controls = "baseline=[shuffled_mask,random_mask,sham,random_reinit]"
    own = conducted(units.store_root, *UNITS, "levels=1", path, controls)
    assert reference(own, 0, 1).training == reference(units, 0, 2).training
    mask = stored(own, 0, 1).mask()
    assert not bool(mask["bn1.weight"].all() & mask["bn1.bias"].all())
    _, search = reopen(own)
    for name in ("shuffled_mask", "random_mask", "random_reinit"):
        training = locate(own.file(0, name, 1, 0)).stored()
        alive = search.grain.alive(training.mask())
        full = masks.full(search.theta_0(0).weights, search.layers)
        assert same(training.mask(), search.grain.expand(alive, full)), name
        counts = [int(m.sum()) for m in alive.values()]
        kept = [int(m.sum()) for m in search.grain.alive(mask).values()]
        assert name == "random_mask" or counts == kept
    assert not same(locate(own.file(0, "shuffled_mask", 1, 0)).stored().mask(), mask)
    sham = locate(own.file(0, "sham", 1, 0)).stored().mask()
    assert sham.keys() == mask.keys() and all(bool(m.all()) for m in sham.values())


def test_units_go_to_other_classes_and_those_of_excluded_layers_stay(units: RunFolder) -> None:
    path, mask = f"ticket.source={place(units)}", stored(units, 0, 2).mask()
    options = ["dataset.classes=6", "exclude=[conv1.weight]"]
    run = composed(units.store_root, *UNITS, "levels=1", path, *options)
    search = prepare(run, read_data(run))
    own = search.imports[0]
    assert own.redrawn == ("fc.weight", "fc.bias") and "fc.bias" not in own.mask
    # All classes stay; what reads channels that are pruned goes with them.
    read = mask["fc.weight"].any(0)
    assert not bool(read.all()) and own.mask["fc.weight"].shape == (6, len(read))
    assert torch.equal(own.mask["fc.weight"], read.expand(6, -1))
    for name in ("conv1.weight", "bn1.weight", "bn1.bias"):
        assert name not in own.mask or bool(own.mask[name].all()), name
    inner = "stage2.0.bn1.weight"
    assert torch.equal(own.mask[inner], mask[inner]) and not bool(mask[inner].all())


GRANULARITIES = ("weights", "n_m", "blocks", "units", "residual_blocks")


@pytest.fixture(scope="module")
def of_all(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """A ticket of each granularity, of one network."""
    root = tmp_path_factory.mktemp("granularities") / "results"
    return {
        n: conducted(root, *RESNET, "train_steps=1it", "rewind_step=0it", f"granularity={n}",
                     "levels=1") for n in GRANULARITIES
    }  # fmt: skip


def brought_as(source: RunFolder, *options: str) -> Import:
    path = f"ticket.source={place(source, level=1)}"
    run = composed(source.store_root, *RESNET, "levels=1", path, *options)
    return prepare(run, read_data(run)).imports[0]


@pytest.mark.parametrize("name", GRANULARITIES)
def test_a_ticket_of_units_is_brought_to_a_run_of_such_units(
    name: str, of_all: dict[str, RunFolder]
) -> None:
    source = of_all[name]
    own = brought_as(source, f"granularity={name}")
    assert same(own.mask, stored(source, 0, 1).mask()) and masks.density(own.mask) < 1


@pytest.mark.parametrize(
    ("found", "options", "where"),
    [
        ("units", ["granularity=weights"], "bn1.weight"),
        ("residual_blocks", ["granularity=weights"], "bn1.weight"),
        ("units", ["granularity=residual_blocks"], "conv1.weight"),
        ("weights", ["granularity=units"], "conv1.weight"),
        ("weights", ["granularity=blocks"], "weight"),
        ("weights", ["granularity=n_m"], "weight"),
        ("n_m", ["granularity=n_m", "granularity.n=1"], "weight"),
    ],
)
def test_units_that_are_not_those_of_the_run_are_refused(
    found: str, options: list[str], where: str, of_all: dict[str, RunFolder]
) -> None:
    """Their controls would be of other units than the ticket."""
    with pytest.raises(ConfigError) as raised:
        brought_as(of_all[found], *options)
    text = str(raised.value)
    assert re.fullmatch(
        r"ticket.source: got \S+, whose mask is not of this run's units at .*, "
        "allowed: a ticket that was found with this granularity",
        text,
    )
    assert where in text


def test_the_units_that_one_mask_keeps_of_another_are_whole(units: RunFolder) -> None:
    both = f"[{place(units, level=1)},{place(units, level=2)}]"
    options = [*UNITS, "levels=1", f"ticket.source={both}", "ticket.weights=false"]
    run = composed(units.store_root, *options, "ticket.combine=intersection")
    own = prepare(run, read_data(run)).imports[0]
    assert same(own.mask, stored(units, 0, 2).mask())
    # Weights between units of either mask belong to no unit of both.
    run = composed(units.store_root, *options, "ticket.combine=difference")
    with pytest.raises(ConfigError, match="ticket.source: got difference of .* not of this run's"):
        prepare(run, read_data(run))


def test_survivors_of_imported_units_follow_the_rest_of_the_network(
    make_search: Any, make_workshop: Any
) -> None:
    """A unit that is gone is silent: with BatchNorm's shift left it would still speak."""
    search = make_search(levels=1, granularity=Units(), rewind_step=0)
    theta = search.theta_0(0)
    full = masks.full(theta.weights, search.layers)
    alive = {n: torch.arange(len(m)) % 2 == 0 for n, m in search.grain.alive(full).items()}
    mask = search.grain.expand(alive, full)
    shifted = {n: w + 1 if n.endswith("bias") else w for n, w in theta.weights.items()}
    start = dataclasses.replace(theta, weights=shifted)
    own = Source(name="r/t", mask=mask, start=start, dense=start, cost=0)
    fitted = fit(own, layers=search.layers, theta=theta)
    grain = search.units(frozenset())
    search = dataclasses.replace(
        search, imports={0: of_units(fitted, grain, search.grain, search.layers)}
    )
    _, (row,) = search.run(make_workshop())
    end = row.stored.state("end").weights
    assert not bool(end["norm1.bias"][1::2].any()) and bool(end["norm1.bias"][::2].all())


# Faults


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["levels=2"], "levels: got 2, allowed: 1: level 0 is dense, level 1 the ticket"),
        (["finder=rigl"], "finder: got "),
        (["score_steps=2"], "score_steps: got 2, allowed: 1: nothing is pruned"),
        (["prune_at=0it"], "prune_at: got '0it', allowed: end"),
        (["rewind=learning_rate"], "rewind.weights: got 'final', allowed: rewound"),
        (["rewind.optimizer=saved"], "rewind.optimizer: got 'saved', allowed: fresh"),
        (["ticket.start=late"], "ticket.start: got 'late', allowed: init, rewound, end"),
        (
            ["ticket.mask=false", "ticket.weights=false"],
            "ticket.mask: got False, allowed: true, or ticket.weights=true",
        ),
        (["ticket.weights=false", "ticket.start=init"], "ticket.start: got 'init', allowed"),
        (["ticket.source=no/seed_000/ticket/level_01"], "ticket.source: got 'no/seed_000"),
        (["ticket.source=[a,b,c]"], "ticket.source: got ['a', 'b', 'c'], allowed: a ticket"),
        (["ticket.source={1:a}"], "ticket.source: got {1: 'a'}, allowed: a ticket"),
        (["ticket.source=3"], "ticket.source: got 3, allowed: a ticket"),
        (
            ["ticket.source=null", "ticket.start=end"],
            "ticket.start: got 'end', allowed: 'rewound' (without ticket.source)",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    brought: Callable[..., Run], overrides: list[str], fault: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        brought(*overrides)
    assert any(f.startswith(fault) for f in raised.value.faults), raised.value.faults


def test_another_width_is_refused_by_its_layers(brought: Callable[..., Run]) -> None:
    run = brought("dataset.shape=[1,6,6]")
    with pytest.raises(ConfigError, match=r"ticket.source: .* fc1.weight \(\[300, 64\] for \[300"):
        prepare(run, read_data(run))


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    own = conducted(tmp_path, "seeds=[0]", "levels=1")
    (file,) = own.path.glob("seed_000/ticket/level_01/mask.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="ticket.source: damaged: .*mask.safetensors"):
        composed(tmp_path, "seeds=[0]", "levels=1", f"ticket.source={place(own, level=1)}")


# Masks of several tickets


def test_masks_are_combined_and_one_ticket_gives_the_start(
    source: RunFolder, brought: Callable[..., Run]
) -> None:
    a, b = (stored(source, seed, 1).mask() for seed in (0, 1))
    both = f"[{place(source, 0, 1)},{place(source, 1, 1)}]"
    wanted = {
        "union": {n: a[n] | b[n] for n in a},
        "intersection": {n: a[n] & b[n] for n in a},
        "difference": {n: a[n] & ~b[n] for n in a},
    }
    ids = set()
    for how, mask in wanted.items():
        for giver, seed in ((place(source, 0, 1), 0), (place(source, 1, 2), 1)):
            run = brought(f"ticket.combine={how}", f"ticket.start_from={giver}", path=both)
            (own,) = prepare(run, read_data(run)).imports.values()
            assert same(own.mask, mask)
            assert own.start is not None and own.dense is not None
            assert same(own.start.weights, stored(source, seed, 0).state(3).weights)
            assert same(own.dense.weights, own.start.weights)
            # Two searches of one level.
            assert own.cost == 16
            ids.add(run.run_id)
    assert len(ids) == 6
    folder = RunFolder(source.store_root, conduct(run, None, report=False))
    assert stored(folder, 0, 1).done["density"] == masks.density(wanted["difference"])


def test_a_complement_and_combinations_by_seed(
    source: RunFolder, brought: Callable[..., Run]
) -> None:
    run = brought("ticket.combine=complement", "ticket.weights=false", path=place(source))
    own = run.sources[0]
    assert own.mask is not None and own.start is None
    assert same(own.mask, {n: ~m for n, m in stored(source, 0, 2).mask().items()})
    # What is excluded stays whole, whatever is left of it.
    run = brought(
        "ticket.combine=complement", "ticket.weights=false", "exclude=[output]", path=place(source)
    )
    (fitted,) = prepare(run, read_data(run)).imports.values()
    assert bool(fitted.mask["fc3.weight"].all())
    levels = [[place(source, seed, level) for level in (1, 2)] for seed in (0, 1)]
    lists = "[" + ",".join("[" + ",".join(pair) + "]" for pair in levels) + "]"
    run = brought(
        "seeds=[0,1]",
        "ticket.combine=intersection",
        f"ticket.start_from=[{levels[0][0]},{levels[1][0]}]",
        path=lists,
    )
    for seed in (0, 1):
        own = run.sources[seed]
        # Nested masks: their intersection is the sparser one.
        assert own.mask is not None and same(own.mask, stored(source, seed, 2).mask())
        assert own.start is not None
        assert same(own.start.weights, stored(source, seed, 0).state(3).weights)


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (["ticket.combine=sum"], "ticket.combine: got 'sum', allowed: union, intersection, "),
        (["ticket.combine=union"], "ticket.source: got '"),
        (["ticket.combine=complement"], "ticket.start_from: got nothing, allowed: the ticket that"),
        (
            ["ticket.combine=complement", "ticket.mask=false", "ticket.start_from=a"],
            "ticket.mask: got False, allowed: true (masks are combined)",
        ),
        (["ticket.start_from=a"], "ticket.start_from: got 'a', allowed: null, where"),
        (["ticket.combine=complement", "ticket.start_from=a"], "ticket.start_from: got 'a', where"),
    ],
)
def test_what_cannot_be_combined_is_refused(
    brought: Callable[..., Run], overrides: list[str], fault: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        brought(*overrides)
    assert any(f.startswith(fault) for f in raised.value.faults), raised.value.faults


def test_an_unknown_combination_is_one_fault(brought: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError) as raised:
        brought("ticket.combine=sum")
    assert len(raised.value.faults) == 1


def test_nothing_left_is_refused(source: RunFolder, brought: Callable[..., Run]) -> None:
    twice = f"[{place(source)},{place(source)}]"
    with pytest.raises(ConfigError, match="ticket.combine: got 'difference', which keeps no"):
        brought("ticket.combine=difference", "ticket.weights=false", path=twice)


@pytest.mark.parametrize("name", ["corrupted_task", "inverted_scores"])
def test_controls_of_scores_need_a_mask_that_scores_made(
    name: str, brought: Callable[..., Run]
) -> None:
    run = brought(f"baseline=[{name}]")
    with pytest.raises(ConfigError, match=f"baseline: got {name}, allowed: controls without score"):
        prepare(run, read_data(run))


def test_a_source_may_hold_more_than_zeros(tmp_path: Path) -> None:
    folder = conducted(tmp_path, "seeds=[0]", "levels=1", "fill=initial")
    run = composed(tmp_path, "levels=1", "seeds=[0]", f"ticket.source={place(folder, level=1)}")
    dense = stored(folder, 0, 0)
    own = prepare(run, read_data(run)).imports[0]
    assert own.start is not None and same(own.start.weights, dense.state(3).weights)
