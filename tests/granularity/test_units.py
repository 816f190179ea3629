"""Units: what hangs together, what is pruned, and that it is really gone."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.allocation.layerwise import Layerwise
from lth.coupling import coupled
from lth.engine.loop import Loop
from lth.engine.mlp import MLP
from lth.event.evaluate import Evaluate
from lth.granularity.units import CoupledUnits, Units
from lth.init.glorot_normal import GlorotNormal
from lth.layer import kinds
from lth.lr.constant import Constant
from lth.model.conv import Conv
from lth.model.lenet_300_100 import LeNet300100
from lth.model.resnet import ResNet20
from lth.rewind.matrix import Matrix
from lth.runtime import Runtime
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets
from lth.smaller import smaller
from lth.training import LearningRate, Training, dense, state_of
from lth.types import TrainState

tp = pytest.importorskip("torch_pruning")

SHAPE = (1, 6, 6)
WIDTHS = {"stem": 6, "inner": 5, "branch": 4, "last": 5, "hidden": 7}


def grain(module: nn.Module, *excluded: str, reduce: str = "sum") -> CoupledUnits:
    return Units(reduce=reduce)(
        module, layers=kinds(module), excluded=frozenset(excluded), input_shape=SHAPE
    )


def full(module: nn.Module) -> dict[str, Tensor]:
    return masks.full(dict(module.named_parameters()), kinds(module))


def some(own: CoupledUnits, seed: int = 0) -> dict[str, Tensor]:
    """Six in ten units of each set."""
    stream = torch.Generator().manual_seed(seed)
    return {
        n: torch.randperm(g.size, generator=stream) < round(0.6 * g.size)
        for n, g in own.groups.items()
    }


# What hangs together


def test_a_perceptron_worked_by_hand() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.ReLU(), nn.Linear(3, 2))
    own = grain(module)
    assert list(own.layers.items()) == [("1.weight", "linear")]
    mask = own.expand({"1.weight": torch.tensor([True, False, True])}, full(module))
    assert mask["1.weight"].sum(1).tolist() == [36, 0, 36]
    assert mask["1.bias"].tolist() == [True, False, True]
    assert mask["3.weight"].tolist() == [[True, False, True]] * 2
    assert set(mask) == {"1.weight", "1.bias", "3.weight"}, "the output's bias is its own"
    assert masks.density(mask) == (72 + 4) / (108 + 6)
    # A unit's score: its row and its column.
    scores = {"1.weight": torch.zeros(3, 36), "3.weight": torch.tensor([[1.0, 2, 3], [4, 5, 6]])}
    scores["1.weight"][:, 0] = torch.tensor([30.0, 20.0, 10.0])
    assert own.score(scores, full(module))["1.weight"].tolist() == [35, 27, 19]
    # Only what lives counts.
    assert own.score(scores, mask)["1.weight"].tolist() == [35, 0, 19]
    mean = grain(module, reduce="mean").score(scores, mask)["1.weight"]
    assert mean.tolist() == [35 / 38, 0, 19 / 38]
    norm = grain(module, reduce="norm").score(scores, mask)["1.weight"]
    torch.testing.assert_close(norm, torch.tensor([917.0, 0, 145.0]).double().sqrt())


def test_the_ties_of_a_network(Residual: Any) -> None:
    module = Residual(input_shape=SHAPE, num_classes=3)
    groups = coupled(module, SHAPE)
    assert {n: (g.size, g.layers) for n, g in groups.items()} == {
        "stem.weight": (6, ("stem.weight", "conv2.weight", "depthwise.weight")),
        "conv1.weight": (5, ("conv1.weight",)),
        "branch.weight": (4, ("branch.weight",)),
        "conv3.weight": (5, ("conv3.weight",)),
        "fc1.weight": (7, ("fc1.weight",)),
        "fc2.weight": (3, ("fc2.weight",)),
    }
    places = {(p.tensor, p.dim) for p in groups["stem.weight"].places}
    norms = {"bias", "weight", "running_mean", "running_var"}
    expected = {("stem.weight", 0), ("stem.bias", 0), ("conv2.weight", 0), ("conv1.weight", 1)}
    expected |= {("depthwise.weight", 0), ("depthwise.bias", 0), ("branch.weight", 1)}
    expected |= {("conv3.weight", 1)} | {(f"{n}.{t}", 0) for n in ("bn0", "bn2") for t in norms}
    assert places == expected

    def reads(tensor: str, group: str) -> list[int]:
        (place,) = (p for p in groups[group].places if (p.tensor, p.dim) == (tensor, 1))
        return place.owner.tolist()

    # Concatenated: the branch's channels come after the stem's. Flattened: four pixels a channel.
    assert reads("conv3.weight", "stem.weight") == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1]
    assert reads("conv3.weight", "branch.weight") == [-1] * 6 + [0, 1, 2, 3]
    assert reads("fc1.weight", "conv3.weight") == [i // 4 for i in range(20)]


def test_excluded_layers_keep_their_own_units(Residual: Any) -> None:
    module = Residual(input_shape=SHAPE, num_classes=3)
    own = grain(module, "conv2.weight", "fc1.weight")
    assert list(own.groups) == ["conv1.weight", "branch.weight", "conv3.weight"]  # no stem: tied
    mask = own.expand({n: torch.arange(g.size) > 0 for n, g in own.groups.items()}, full(module))
    assert not bool(mask["fc1.weight"][:, :4].any()) and bool(mask["fc1.weight"][:, 4:].all())
    with pytest.raises(ValueError, match="no layer's units may be pruned"):
        grain(module, *kinds(module))


class Around(nn.Module):
    """Something between a convolution and a Linear layer."""

    def __init__(self, middle: nn.Module, features: int = 4) -> None:
        super().__init__()
        self.first, self.middle, self.fc = nn.Conv2d(1, 4, 1), middle, nn.Linear(features, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc(self.middle(self.first(x)).mean((2, 3)))
        return output


class Twice(nn.Module):
    """Concatenated and flattened with its pixels, which torch-pruning does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Linear(288, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc(torch.cat([self.a(x), self.b(x)], 1).flatten(1))
        return output


class Hidden(nn.Module):
    """Reads its channels past the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).mean((2, 3))
        output: Tensor = self.fc(a) + a.sum(1, keepdim=True)
        return output


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Around(nn.Conv2d(4, 4, 1, groups=2)), "middle: a convolution in 2 groups is not supp"),
        (Around(nn.GroupNorm(2, 4)), r"cannot be followed through middle \(GroupNorm\)"),
        (Around(nn.PReLU(4)), r"cannot be followed through middle \(PReLU\)"),
        (Around(nn.ChannelShuffle(2)), "units cannot be followed"),
        (Twice(), "fc.weight: "),
        (Hidden(), "units cannot be followed"),
    ],
)
def test_what_cannot_be_followed_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coupled(module, SHAPE)
    with pytest.raises(ValueError, match=r"^reduce: got 'max', allowed: sum, mean, norm"):
        Units(reduce="max")


# Which units go


class Conv1(Conv):
    """One pair, whose channels fc1 reads flattened."""

    pairs = 1


ORACLE = {
    "residual": functools.partial(ResNet20, width=4),
    "flattened": functools.partial(Conv1, width=4),
    "perceptron": LeNet300100,
}


@pytest.mark.parametrize("reduce", ["sum", "norm"])
@pytest.mark.parametrize("network", ORACLE)
def test_torch_pruning_prunes_the_same_units(network: str, reduce: str) -> None:
    """Its pruner by group magnitude, half of each set, leaves the tensors that ``smaller`` does."""
    torch.manual_seed(1)
    module = ORACLE[network](input_shape=SHAPE, num_classes=3)
    own, dense_mask = grain(module, reduce=reduce), full(module)
    # L1 norms added, or squared L2 norms.
    importance = tp.importance.GroupMagnitudeImportance(
        p=1 if reduce == "sum" else 2,
        group_reduction="sum",
        normalizer=None,
        target_types=[nn.Conv2d, nn.Linear],
    )
    scores = {n: module.get_parameter(n).detach().abs() for n in dense_mask}
    alive = own.spending(Layerwise())(
        own.score(scores, dense_mask),
        own.alive(dense_mask),
        layers=own.layers,
        rate=0.5,
        times=1,
        keep=None,
    )
    ours = smaller(
        module, state_of(module, step=0), own.expand(alive, dense_mask), input_shape=SHAPE
    )
    theirs = copy.deepcopy(module)
    pruner = tp.pruner.BasePruner(
        theirs,
        torch.zeros(1, *SHAPE),
        importance=importance,
        pruning_ratio=0.5,
        ignored_layers=[m for m in theirs.modules() if isinstance(m, nn.Linear)][-1:],
    )
    for group in list(pruner.step(interactive=True)):  # all ranked before any is pruned
        group.prune()
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    whole = sum(p.numel() for p in module.parameters())
    assert sum(p.numel() for p in ours.parameters()) < 0.55 * whole


# Really gone


def training_of(model: Any, task: Any, steps: int = 30, **options: Any) -> Training:
    return dense(
        task=task,
        model=model,
        init=GlorotNormal(),
        optimizer=options.pop("optimizer"),
        learning_rate=LearningRate(shape=Constant(), total=steps),
        seed=0,
        eval_every=10,
        **options,
    )


def run(training: Training, engine: Any = None) -> Any:
    (result,) = (engine or Loop()).train(
        [training],
        events=lambda t: [Evaluate()],
        resume=lambda t: None,
        runtime=Runtime(device="cpu"),
    )
    return result


@pytest.mark.parametrize(
    ("name", "options", "extra"),
    [
        ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}, {}),
        ("SGD", {"lr": 0.05, "momentum": 0.9}, {"grad_clip": 0.3}),
        # A bias before BatchNorm has no gradient but rounding, which a small eps would blow up.
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-4}, {"label_smoothing": 0.1}),
    ],
)
def test_survivors_follow_the_smaller_network(
    Residual: Any, tiny_task: Any, name: str, options: Any, extra: Any
) -> None:
    """BatchNorm, a residual connection, depthwise, concatenation, flatten: float64, 1e-10."""
    optimizer = functools.partial(getattr(torch.optim, name), **options)
    big = training_of(Residual, tiny_task(), optimizer=optimizer, **extra)
    module = Residual(input_shape=SHAPE, num_classes=3)
    own = grain(module)
    alive = some(own)
    mask = own.expand(alive, big.mask)
    sizes = dict(zip(WIDTHS, (int(a.sum()) for a in alive.values()), strict=True))
    assert all(0 < sizes[n] < WIDTHS[n] for n in sizes)
    # BatchNorm's values as after some training, so that what leaks would show.
    stream = torch.Generator().manual_seed(5)
    start = TrainState(
        step=0,
        weights={
            n: w + 0.3 * torch.randn(w.shape, generator=stream).double() if w.ndim == 1 else w
            for n, w in big.start.weights.items()
        },
        buffers={n: b + 0.5 if b.ndim else b for n, b in big.start.buffers.items()},
    )
    big = big.replace(mask=mask, start=start)
    cut = smaller(module, big.start, mask, input_shape=SHAPE)
    small_model = functools.partial(Residual, **sizes)
    small = training_of(small_model, tiny_task(), optimizer=optimizer, **extra)
    small = small.replace(start=state_of(cut, step=0))
    a, b = run(big), run(small)
    end = smaller(module, a.end, mask, input_shape=SHAPE)
    assert dict(end.named_buffers()).keys() == b.end.buffers.keys()
    for key, tensor in state_of(end, step=0).weights.items():
        torch.testing.assert_close(tensor, b.end.weights[key], rtol=0, atol=1e-10)
    for key, tensor in state_of(end, step=0).buffers.items():
        torch.testing.assert_close(tensor, b.end.buffers[key], rtol=0, atol=1e-10)
    moved = (b.end.weights["conv1.weight"] - small.start.weights["conv1.weight"]).abs().max()
    assert moved > 1e-3
    for x, y in zip(a.record.metrics, b.record.metrics, strict=True):
        assert x["val_loss"] == pytest.approx(y["val_loss"], rel=1e-6)
    for key, kept in mask.items():
        assert not bool(a.end.weights[key][~kept].any())


def test_the_smaller_network_has_the_same_outputs(Residual: Any) -> None:
    """Eval mode, trained statistics; whatever lies where the mask is False."""
    module = Residual(input_shape=SHAPE, num_classes=3)
    x = torch.rand(16, *SHAPE)
    for _ in range(3):
        module(x)
    own = grain(module)
    mask = own.expand(some(own, seed=1), full(module))
    state = state_of(module, step=0)
    masked = copy.deepcopy(module).eval()
    masked.load_state_dict({**masks.apply(state.weights, mask), **state.buffers})
    small = smaller(module, state, mask, input_shape=SHAPE).eval()
    torch.testing.assert_close(small(x), masked(x), rtol=0, atol=1e-6)
    assert (small(x) - module.eval()(x)).abs().max() > 1e-3
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in module.parameters())
    assert small.stem.out_channels == small.bn0.num_features == small.depthwise.groups
    assert small.fc1.in_features == small.fc1.weight.shape[1]
    everything = smaller(module, state, full(module), input_shape=SHAPE).eval()
    torch.testing.assert_close(everything(x), module(x), rtol=0, atol=0)
    single = full(module)
    single["fc1.weight"][0, 0] = False
    with pytest.raises(ValueError, match=r"mask: got single weights of fc1.weight, allowed: whole"):
        smaller(module, state, single, input_shape=SHAPE)


def test_the_perceptron_engine_masks_biases_too(tiny_task: Any) -> None:
    """``mlp`` and ``loop`` agree under masks of units, dense and sparse products alike."""
    optimizer = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-2)
    training = training_of(LeNet300100, tiny_task(), optimizer=optimizer)
    own = grain(LeNet300100(input_shape=SHAPE, num_classes=3))
    alive = {n: torch.arange(g.size) < g.size // 5 for n, g in own.groups.items()}
    training = training.replace(mask=own.expand(alive, training.mask))
    reference = run(training)
    for sparse_below in (0.0, 1.0):
        other = run(training, MLP(sparse_below=sparse_below))
        for name, weight in reference.end.weights.items():
            torch.testing.assert_close(other.end.weights[name], weight, rtol=1e-4, atol=1e-5)
            if name in training.mask:
                assert not bool(other.end.weights[name][~training.mask[name]].any())
        assert set(other.mask) == set(training.mask)


# Searches


def test_counts_are_of_units_and_masks_nest(
    Residual: Any, make_search: Any, make_workshop: Any, tiny_task: Any
) -> None:
    search = make_search(
        model=Residual, granularity=Units(), tasks={0: tiny_task()}, levels=2, score_steps=2
    )
    before = search.grain.alive(search.dense(0).mask)
    masks_of = [search.dense(0).mask]
    for rows in list(search.run(make_workshop()))[1:]:
        mask = rows[0].training.mask
        after = search.grain.alive(mask)
        for name, units in after.items():
            n = int(before[name].sum())
            assert int(units.sum()) == n - round(0.4 * n)
        assert masks.nested(mask, masks_of[-1])
        assert bool(mask["fc2.weight"].any(1).all()), "the output's units stay"
        assert rows[0].stored.done["density"] == masks.density(mask)
        stored = rows[0].stored.state("end").weights
        assert all(not bool(stored[n][~m].any()) for n, m in mask.items())
        masks_of.append(mask)
        before = after


def test_at_least_one_unit_of_each_set_stays(
    Residual: Any, make_search: Any, make_workshop: Any, tiny_task: Any
) -> None:
    search = make_search(
        model=Residual,
        granularity=Units(),
        allocation=GlobalTop(),
        schedule=OneShot(rate=0.99),
        tasks={0: tiny_task()},
        levels=1,
    )
    (dense_row,), (ticket,) = search.run(make_workshop())
    alive = search.grain.alive(ticket.training.mask)
    assert all(int(a.sum()) == 1 for a in alive.values())
    scores = search.grain.score(
        {
            n: w.abs()
            for n, w in dense_row.stored.state("end").weights.items()
            if n in search.layers
        },
        dense_row.training.mask,
    )
    assert all(int(scores[n].argmax()) == int(a.int().argmax()) for n, a in alive.items())


def test_a_target_density_is_refused(make_search: Any, make_workshop: Any) -> None:
    search = make_search(granularity=Units(), schedule=Targets(densities=[0.5]), levels=1)
    with pytest.raises(ValueError, match=r"densities: got 0.5, allowed: a schedule of rates"):
        list(search.run(make_workshop()))


def test_controls_are_of_whole_units(Residual: Any) -> None:
    module = Residual(input_shape=SHAPE, num_classes=3)
    own = grain(module)
    alive = some(own)
    mask = own.expand(alive, full(module))
    seen = []
    for seed in range(4):
        shuffled = own.shuffle(mask, torch.Generator().manual_seed(seed))
        counts = {n: int(a.sum()) for n, a in own.alive(shuffled).items()}
        assert counts == {n: int(a.sum()) for n, a in alive.items()}
        assert masks.density(shuffled) == masks.density(mask)
        scores = {n: torch.rand(len(a)) for n, a in alive.items()}
        drawn = own.draw(scores, mask)
        target, got = masks.remaining(masks.prunable(mask)), masks.remaining(masks.prunable(drawn))
        # Nearest: neither one unit more nor one less would be nearer.
        assert abs(got - target) < 0.25 * target
        for one in (shuffled, drawn):
            again = own.expand(own.alive(one), full(module))
            assert one.keys() == again.keys() == mask.keys()
            assert all(torch.equal(one[n], again[n]) for n in one)
            seen.append(tuple(one["conv1.weight"].flatten().tolist()))
    assert len(set(seen)) == len(seen)


class Broken(nn.Module):
    """Takes no single example."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(36, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc(x.flatten(1)[1])
        return output


def test_a_network_that_cannot_be_traced_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="torch-pruning cannot follow this network"):
        coupled(Broken(), SHAPE)


def test_a_state_that_is_rewound_with_its_slots_is_masked_too(
    Residual: Any, make_search: Any, make_workshop: Any, tiny_task: Any
) -> None:
    """Momenta of biases and norms of pruned units are zero, as are those of their weights."""
    search = make_search(
        model=Residual,
        granularity=Units(),
        tasks={0: tiny_task()},
        rewind=Matrix(optimizer="saved"),
    )
    *_, (ticket,) = search.run(make_workshop())
    start = ticket.training.start
    assert start.optimizer is not None and start.step == search.rewind_step
    covered = {n for n in ticket.training.mask if n.endswith("bias")}
    assert covered >= {"stem.bias", "bn0.bias", "fc1.bias", "bn3.bias"}
    for name, kept in ticket.training.mask.items():
        slot = start.optimizer[f"{name}/momentum_buffer"]
        assert not bool(slot[~kept].any()) and bool(slot[kept].any())
