"""Every experiment composes and builds, means the protocol of its source, and runs.

The numbers below are written out by hand from the papers; none is read from the YAMLs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lth import layer
from lth import mask as masks
from lth.allocation.budget import pruned
from lth.allocation.layerwise import Layerwise
from lth.build import Run, build
from lth.dataset.dataset import Raw
from lth.level import Row
from lth.paths import conf_dir
from lth.prepare import ladder, prepare, read_data, variants
from lth.run import register
from lth.search import Search

NAMES = sorted(p.stem for p in (conf_dir() / "experiments").glob("*.yaml"))


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a preset means, in updates. ``rates`` are learning rates by step."""

    network: str
    data: str = "CIFAR10"
    weights: int
    examples: int = 45_000
    batch: int
    total: int
    k: int = 0
    warmup: int = 0
    every: int
    seeds: int
    levels: int
    endpoint: str
    optimizer: str
    momentum: float = 0.0
    decay: float = 0.0
    rates: Mapping[int, float]
    init: str = "GlorotNormal"
    dense: tuple[str, ...] = ()
    normalize: str = "cifar10"
    augmented: bool = True
    reinits: int = 1
    origin: str = "init"
    verdict_levels: tuple[int, ...]


LENET = Protocol(
    network="LeNet300100",
    data="MNIST",
    weights=266_200,
    examples=55_000,
    batch=60,
    total=50_000,
    every=100,
    seeds=5,
    levels=21,
    endpoint="early_stop",
    optimizer="Adam",
    rates={0: 1.2e-3, 49_999: 1.2e-3},
    normalize="unit",
    augmented=False,
    reinits=3,
    verdict_levels=(11, 12, 13, 14, 15, 16, 17),
)
CONV_2 = replace(
    LENET,
    network="Conv2",
    data="CIFAR10",
    weights=4_300_992,
    examples=45_000,
    total=20_000,
    levels=18,
    rates={0: 2e-4, 19_999: 2e-4},
    verdict_levels=(11, 12, 13, 14, 15, 16, 17),
)
RESNET_LTH = Protocol(
    network="ResNet20",
    weights=270_896,
    batch=128,
    total=30_000,
    every=500,
    seeds=5,
    levels=12,
    endpoint="final",
    optimizer="SGD",
    momentum=0.9,
    decay=1e-4,
    rates={0: 0.1, 19_999: 0.1, 20_000: 0.01, 24_999: 0.01, 25_000: 0.001, 29_999: 0.001},
    dense=("stage2.0.shortcut.conv.weight", "stage3.0.shortcut.conv.weight", "fc.weight"),
    verdict_levels=(6, 7, 8, 9, 10),
)
RESNET_LMC = replace(
    RESNET_LTH,
    total=63_000,
    seeds=3,
    levels=13,
    rates={0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 62_999: 0.001},
    init="KaimingNormal",
    dense=(),
    verdict_levels=(6, 7, 8, 9),
)
VGG_16 = replace(
    RESNET_LMC,
    network="VGG16",
    weights=14_715_584,
    levels=20,
    dense=("fc.weight",),
    verdict_levels=tuple(range(12, 20)),
)
VGG_19 = replace(
    VGG_16,
    network="VGG19",
    weights=20_024_000,
    batch=64,
    total=112_480,
    seeds=5,
    # 703 updates an epoch: drops after 80 and 120 of them.
    rates={0: 0.1, 56_239: 0.1, 56_240: 0.01, 84_359: 0.01, 84_360: 0.001, 112_479: 0.001},
    init="GlorotNormal",
)

PROTOCOLS = {
    "lenet_mnist": LENET,
    "lenet_mnist_openlth": replace(
        LENET,
        batch=128,
        total=17_160,  # 40 epochs of 429
        levels=22,
        optimizer="SGD",
        rates={0: 0.1, 17_159: 0.1},
        init="KaimingNormal",
        dense=("fc3.weight",),
        normalize="mnist",
        reinits=1,
        verdict_levels=(11, 12, 13, 14, 15, 16, 17, 18),
    ),
    "conv_2_cifar10": CONV_2,
    "conv_4_cifar10": replace(
        CONV_2,
        network="Conv4",
        weights=2_425_024,
        total=25_000,
        levels=21,
        rates={0: 3e-4, 24_999: 3e-4},
        verdict_levels=tuple(range(12, 22)),
    ),
    "conv_6_cifar10": replace(
        CONV_2,
        network="Conv6",
        weights=2_261_184,
        total=30_000,
        levels=22,
        rates={0: 3e-4, 29_999: 3e-4},
        verdict_levels=tuple(range(13, 22)),
    ),
    "resnet_20_lth": RESNET_LTH,
    "resnet_20_lth_low": replace(
        RESNET_LTH, rates={0: 0.01, 19_999: 0.01, 20_000: 0.001, 25_000: 0.0001}
    ),
    "resnet_20_lth_warmup": replace(
        RESNET_LTH,
        warmup=20_000,
        rates={0: 1.5e-6, 9_999: 0.015, 19_999: 0.03, 20_000: 0.003, 25_000: 0.0003},
    ),
    "resnet_20_lth_rewind": replace(RESNET_LTH, k=500, origin="dense_k"),
    "resnet_20_lmc": RESNET_LMC,
    "resnet_20_lmc_low": replace(
        RESNET_LMC, rates={0: 0.01, 31_999: 0.01, 32_000: 0.001, 48_000: 0.0001}
    ),
    "resnet_20_lmc_warmup": replace(
        RESNET_LMC,
        warmup=30_000,
        rates={0: 1e-6, 14_999: 0.015, 29_999: 0.03, 31_999: 0.03, 32_000: 0.003, 48_000: 0.0003},
    ),
    "resnet_20_lmc_rewind": replace(RESNET_LMC, k=500, origin="dense_k"),
    "vgg_16_standard": VGG_16,
    "vgg_16": replace(VGG_16, k=1000, origin="dense_k"),
    "vgg_16_low": replace(VGG_16, rates={0: 0.01, 31_999: 0.01, 32_000: 0.001, 48_000: 0.0001}),
    "vgg_16_warmup": replace(
        VGG_16, warmup=30_000, rates={14_999: 0.05, 29_999: 0.1, 32_000: 0.01, 48_000: 0.001}
    ),
    "vgg_19_standard": VGG_19,
    "vgg_19": replace(VGG_19, k=100, origin="dense_k"),
    "vgg_19_low": replace(VGG_19, rates={0: 0.01, 56_240: 0.001, 84_360: 0.0001}),
    "vgg_19_warmup": replace(
        VGG_19, warmup=10_000, rates={4_999: 0.05, 9_999: 0.1, 56_240: 0.01, 84_360: 0.001}
    ),
    "resnet_50_imagenet": replace(
        VGG_16,
        network="ResNet50",
        data="ImageFolder",
        weights=25_502_912,
        examples=1_231_167,
        batch=1024,
        # 1,202 updates an epoch, and 90, 5, 30, 60 and 80 epochs.
        total=108_180,
        k=6_010,
        warmup=6_010,
        every=1_202,
        levels=1,
        rates={0: 0.4 / 6_010, 6_009: 0.4, 36_060: 0.04, 72_120: 0.004, 96_160: 0.0004},
        dense=(),
        normalize="imagenet",
        origin="dense_k",
        verdict_levels=(1,),
    ),
}

SIZES = {"MNIST": (60_000, 1, 28, 10), "CIFAR10": (50_000, 3, 32, 10)}
SIZES["ImageFolder"] = (1_281_167, 3, 224, 1000)
"""Train images, channels, side and classes of the real data."""

DENSITIES = {
    # Percent by level. Frankle & Carbin 2019 label 51.3, 21.1, 13.5, 7.0, 3.6, 1.9, 1.5, 1.0.
    "lenet_mnist": {3: 51.28, 7: 21.07, 9: 13.52, 12: 6.95, 15: 3.58, 18: 1.85, 19: 1.49, 21: 0.96},
    # The output layer's 1,000 weights stay: 0.38 of these percents.
    "lenet_mnist_openlth": {1: 80.08, 10: 11.07, 22: 1.11},
    # Their labels: 8.8 and 4.6; 11.1 and 9.2.
    "conv_2_cifar10": {11: 8.81, 14: 4.57, 18: 1.93},
    "conv_4_cifar10": {11: 11.06, 12: 9.18, 21: 2.01},
    # Their labels 26.4 and 15.1 do not follow from the layers of their Figure 2.
    "conv_6_cifar10": {7: 26.61, 10: 15.29, 22: 1.79},
    # Their labels: 41.7, 27.1, 21.9, 11.8: the dense layers are in the denominator.
    "resnet_20_lth": {4: 41.66, 6: 27.09, 7: 21.91, 10: 11.79},
    # Frankle et al. 2020 label 16.8, 13.4 and 8.6.
    "resnet_20_lmc": {8: 16.78, 9: 13.42, 11: 8.59},
    "vgg_16_standard": {12: 6.90, 13: 5.53, 19: 1.48},
    "vgg_19_standard": {12: 6.90, 15: 3.54, 17: 2.28, 19: 1.47},
    "resnet_50_imagenet": {1: 30.00},
}


@functools.cache
def composed(*overrides: str) -> DictConfig:
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("run", overrides=["device=cpu", *overrides])


@functools.cache
def run_of(name: str, *overrides: str) -> Run:
    return build(composed(f"experiments={name}", *overrides))


def narrow(name: str) -> list[str]:
    return ["model.width=8"] * PROTOCOLS[name].network.startswith(("VGG", "Conv"))


@functools.cache
def search_of(name: str) -> Search:
    """The preset on data of the real size, all zeros and without memory of their own.

    No level is asked for, and where a width can be set the network is narrow: trying the
    densities of the large ones would take minutes. The names of layers are the same.
    """
    n, channels, side, classes = SIZES[PROTOCOLS[name].data]
    raw = Raw(
        x_train=torch.zeros(1, dtype=torch.uint8).expand(n, channels, side, side),
        y_train=torch.zeros(1, dtype=torch.int64).expand(n),
        x_test=torch.zeros(1, dtype=torch.uint8).expand(100, channels, side, side),
        y_test=torch.zeros(1, dtype=torch.int64).expand(100),
        num_classes=classes,
    )
    vars(raw)["digest"] = "zeros"
    return prepare(run_of(name, "levels=0", "seeds=[0]", *narrow(name)), raw)


@functools.cache
def weights_of(name: str) -> Mapping[str, int]:
    """The prunable weights of each layer, of a network without memory."""
    _, channels, side, classes = SIZES[PROTOCOLS[name].data]
    with torch.device("meta"):
        network = run_of(name).model(input_shape=(channels, side, side), num_classes=classes)
    parameters = dict(network.named_parameters())
    return {n: parameters[n].numel() for n in layer.kinds(network)}


@functools.cache
def counted_ladder(name: str) -> list[float]:
    """Densities of all levels in percent by counting alone: no weight is ranked."""
    run, search, total = run_of(name), search_of(name), sum(weights_of(name).values())
    dense = set(layer.select(search.layers, search.exclude))
    left = dict(weights_of(name))
    result = [100.0]
    for level in range(1, run.root.levels + 1):
        pruning = run.schedule(level)
        free = {n: count for n, count in left.items() if n not in dense}
        if pruning.density is not None:
            kept = {"all": round(pruning.density * total)}
        elif isinstance(run.allocation, Layerwise):
            rates = run.allocation.layer_rates({n: search.layers[n] for n in free}, pruning.rate)
            left |= {n: count - pruned(count, rates[n]) for n, count in free.items()}
            kept = left
        else:
            count = sum(free.values())
            kept = left = {n: left[n] for n in dense} | {"all": count - pruned(count, pruning.rate)}
        result.append(100 * sum(kept.values()) / total)
    return result


def test_every_preset_has_its_numbers_here() -> None:
    assert set(NAMES) == set(PROTOCOLS)
    assert len(NAMES) == 22


def own_keys(name: str) -> set[str]:
    """The root keys that a preset, or one that it builds on, sets itself."""
    content = yaml.safe_load((conf_dir() / "experiments" / f"{name}.yaml").read_text())
    parents = [d for d in content["defaults"] if d in NAMES]
    return set(content).union(*map(own_keys, parents))


@pytest.mark.parametrize("name", NAMES)
def test_names_its_source_and_its_endpoint(name: str) -> None:
    text = (conf_dir() / "experiments" / f"{name}.yaml").read_text()
    comment = text[: text.index("\ndefaults:")]
    assert any(f" {year}" in comment for year in (2019, 2020))
    assert "To show:" in " ".join(comment.split("\n# "))
    assert text.isascii()
    declared = {"seeds", "levels", "endpoint", "verdict_density", "train_steps", "eval_every"}
    assert declared <= own_keys(name)


@pytest.mark.parametrize("name", NAMES)
def test_means_its_protocol(name: str) -> None:
    run, search, wanted = run_of(name), search_of(name), PROTOCOLS[name]
    task = search.tasks[0]
    specs = run.specs
    assert specs["model"]["name"] == wanted.network
    assert specs["dataset"]["name"] == wanted.data
    assert sum(weights_of(name).values()) == wanted.weights
    assert len(task.train) == wanted.examples
    assert task.batch_size == wanted.batch
    assert search.train_steps == wanted.total
    assert search.rewind_step == wanted.k
    assert search.learning_rate.warmup == wanted.warmup
    assert search.eval_every == wanted.every
    assert run.root.seeds == list(range(wanted.seeds))
    assert run.root.levels == wanted.levels
    assert run.root.endpoint == wanted.endpoint
    assert specs["init"]["name"] == wanted.init
    assert run.dataset.normalize == wanted.normalize
    assert (task.crop > 0, task.flip) == (wanted.augmented, wanted.augmented)
    assert layer.select(search.layers, search.exclude) == list(wanted.dense)
    assert (specs["criterion"]["name"], specs["rewind"]) == ("magnitude", {"name": "Matrix"})


@pytest.mark.parametrize("name", NAMES)
def test_trains_as_its_protocol(name: str) -> None:
    search, wanted = search_of(name), PROTOCOLS[name]
    spec = run_of(name).specs["optimizer"]
    assert spec["name"] == wanted.optimizer
    assert spec.get("momentum", 0) == wanted.momentum
    assert spec["weight_decay"] == wanted.decay
    assert not spec.get("nesterov")
    for step, rate in wanted.rates.items():
        assert spec["lr"] * search.learning_rate(step) == pytest.approx(rate, rel=1e-9), step


@pytest.mark.parametrize("name", NAMES)
def test_controls_and_verdict(name: str) -> None:
    run, wanted = run_of(name), PROTOCOLS[name]
    assert set(run.baseline) == {"random_reinit", "shuffled_mask"}
    assert run.baseline["random_reinit"].draws == wanted.reinits
    assert run.baseline["random_reinit"].origin == wanted.origin
    assert run.root.verdict_against in variants(run)
    assert run.root.verdict_against.startswith("random_reinit")
    low, high = run.root.verdict_density
    inside = [i for i, d in enumerate(counted_ladder(name)) if low <= d / 100 <= high]
    assert tuple(inside) == wanted.verdict_levels


@pytest.mark.parametrize("name", DENSITIES)
def test_counted_densities(name: str) -> None:
    rungs = counted_ladder(name)
    assert {i: round(rungs[i], 2) for i in DENSITIES[name]} == DENSITIES[name]


@pytest.mark.parametrize("name", ["lenet_mnist", "lenet_mnist_openlth", "resnet_20_lth"])
def test_pruning_gives_the_counted_densities(name: str) -> None:
    levels = run_of(name).root.levels
    rungs = [100 * density for density in ladder(search_of(name), levels)]
    assert rungs == pytest.approx(counted_ladder(name), abs=1e-9)


@pytest.mark.parametrize(
    "name", ["conv_2_cifar10", "conv_4_cifar10", "conv_6_cifar10", "resnet_20_lmc"]
)
def test_one_level_prunes_each_layer_as_promised(name: str) -> None:
    search = dataclasses.replace(search_of(name), exclude=())
    start = search.theta_0(0)
    everything = masks.full(start.weights, search.layers)
    scores = {n: start.weights[n].abs() for n in everything}
    mask = search.pruner.allocate(scores, everything, 1)
    kept = {n: round(100 * d) for n, d in masks.layer_densities(mask).items()}
    convs = {n: d for n, d in kept.items() if search.layers[n] == "conv"}
    if name == "resnet_20_lmc":
        assert len(set(kept.values())) > 1  # the layers compete
        assert masks.density(mask) == pytest.approx(0.8, abs=1e-5)
    else:
        assert set(convs.values()) == {85 if name == "conv_6_cifar10" else 90}
        assert [kept[f"fc{i}.weight"] for i in (1, 2, 3)] == [80, 80, 90]


# Smoke


def small(name: str) -> list[str]:
    """Overrides that leave the protocol's form and take two updates on twelve tiny images."""
    config = composed(f"experiments={name}")
    wanted = PROTOCOLS[name]
    _, channels, side, _ = SIZES[wanted.data]
    side = {"ImageFolder": 64}.get(wanted.data, side)
    overrides = [
        "dataset=synthetic",
        f"dataset.shape=[{channels},{side},{side}]",
        "dataset.classes=10",
        "dataset.train=12",
        "dataset.test=4",
        "dataset.validation=4",
        "batch_size=2",
        "seeds=[0]",
        "levels=1",
        "train_steps=2it",
        "eval_every=1it",
        "optimizer.lr=0.001",
    ]
    if wanted.k:
        overrides.append("rewind_step=1it")
    if wanted.warmup:
        overrides.append("warmup=2it")
    if "milestones" in config.lr:
        overrides.append("lr.milestones=[1it]")
    if "size" in config.dataset:
        overrides.append("~dataset.size")
    return overrides + narrow(name)


@pytest.mark.parametrize("name", NAMES)
def test_runs(name: str, make_workshop: Callable[..., Any]) -> None:
    wanted = PROTOCOLS[name]
    run = run_of(name, *small(name))
    search = prepare(run, read_data(run))
    levels: list[list[Row]] = list(search.run(make_workshop(engine=run.engine)))
    dense, rows = levels[0][0], levels[1]
    against = run.root.verdict_against
    drawn = [(against, draw) for draw in range(wanted.reinits)]
    assert [(r.variant, r.draw) for r in rows] == [("ticket", 0), *drawn, ("shuffled_mask", 0)]
    assert {r.stored.status for r in [dense, *rows]} == {"done"}
    first = 1 if wanted.k else 0
    assert {(r.training.first_step, r.training.last_step) for r in rows} == {(first, 2)}
    target = run.schedule(1).density or ladder(search, 1)[1]
    assert [r.stored.done["density"] for r in rows] == pytest.approx([target] * len(rows), abs=1e-7)
    for row in rows:
        mask, end = row.training.mask, row.stored.state("end").weights
        assert all(bool((end[n][~m] == 0).all()) for n, m in mask.items())
    ticket, *_, shuffled = rows
    theta_k = dense.stored.state("1").weights if wanted.k else dense.training.start.weights
    expected = masks.apply(theta_k, ticket.training.mask)
    start = ticket.training.start.weights
    assert all(torch.equal(start[n], expected[n]) for n in expected)
    free = [n for n in ticket.training.mask if n not in wanted.dense]
    changed = [
        n for n in free if not torch.equal(ticket.training.mask[n], shuffled.training.mask[n])
    ]
    assert changed
    assert all(bool(ticket.training.mask[n].all()) for n in wanted.dense)
