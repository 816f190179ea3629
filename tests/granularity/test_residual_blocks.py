"""Residual blocks: which there are, what is pruned, and that a pruned block is its shortcut."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.conduct import _notice
from lth.granularity.residual_blocks import BLOCKS, Branches, ResidualBlocks
from lth.layer import kinds
from lth.model.resnet import BasicBlock, ResNet
from lth.model.torchvision import Block
from lth.schedule.one_shot import OneShot
from lth.schedule.targets import Targets
from lth.smaller import smaller
from lth.torchvision_import import torchvision
from lth.training import state_of
from lth.types import TrainState

SHAPE = (1, 6, 6)


def grain(module: nn.Module, *excluded: str, shape: Sequence[int] = SHAPE) -> Branches:
    own = kinds(module)
    return ResidualBlocks()(module, layers=own, excluded=frozenset(excluded), input_shape=shape)


def full(module: nn.Module) -> dict[str, Tensor]:
    return masks.full(dict(module.named_parameters()), kinds(module))


class Shortcut(nn.Module):
    """A block of which nothing else is left."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.shortcut, self.relu2 = block.shortcut, block.relu2

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.relu2(self.shortcut(x))
        return output


class ResNet14(ResNet):
    """Six blocks in three stages, in float64; those in ``gone`` are shortcuts."""

    depth = 14

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, gone: Sequence[str] = ()
    ) -> None:
        super().__init__(input_shape=input_shape, num_classes=num_classes, width=4)
        for name in gone:
            stage, _, i = name.partition(".")
            blocks: Any = self.get_submodule(stage)
            blocks[int(i)] = Shortcut(blocks[int(i)])
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


NAMES = [f"stage{s}.{i}" for s in (1, 2, 3) for i in (0, 1)]
"""Two blocks a stage; the first of the last two stages has a projection as its shortcut."""


# Which there are


def test_the_branches_of_a_residual_network() -> None:
    module = ResNet14(input_shape=SHAPE, num_classes=3)
    own = grain(module)
    layers = ["conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight", "bn2.weight", "bn2.bias"]
    assert [list(b) for b in own.branches] == [[f"{n}.{p}" for p in layers] for n in NAMES]
    assert own.layers == {BLOCKS: "block"} and own.weights_per_unit is None
    projections = {f"stage{s}.0.shortcut.conv.weight" for s in (2, 3)}
    assert own.excluded == {"conv1.weight", "fc.weight", *projections}
    assert own.scored == {f"{n}.conv{i}.weight" for n in NAMES for i in (1, 2)}
    fewer = grain(module, "stage1.1.conv2.weight")
    assert len(fewer.branches) == 5
    assert {f"stage1.1.conv{i}.weight" for i in (1, 2)} <= fewer.excluded
    with pytest.raises(ValueError, match="no residual block may be pruned: each has an excluded"):
        grain(module, *(n for n in kinds(module) if "conv2" in n))


def test_the_network_itself_is_left_as_it_is() -> None:
    module = ResNet14(input_shape=SHAPE, num_classes=3).train()
    before = {n: t.clone() for n, t in module.state_dict().items()}
    grain(module)
    assert module.training
    assert all(torch.equal(t, before[n]) for n, t in module.state_dict().items())


def shallow(*blocks: nn.Module, channels: int = 8) -> nn.Module:
    """A stem, blocks, and an output."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *blocks, *head)


def torchvision_blocks() -> list[nn.Module]:
    """Its own classes, which add in place: a bottleneck, one with a projection, a basic block."""
    resnet = torchvision().models.resnet
    projection = nn.Sequential(nn.Conv2d(8, 8, 1, stride=2), nn.BatchNorm2d(8))
    return [
        resnet.Bottleneck(8, 2),
        resnet.Bottleneck(8, 2, stride=2, downsample=projection),
        resnet.BasicBlock(8, 8),
    ]


@pytest.mark.parametrize("ours", [True, False], ids=["Block", "torchvision"])
def test_bottlenecks_without_their_branches_are_their_shortcuts(ours: bool) -> None:
    blocks = torchvision_blocks()
    module = shallow(*(map(Block, blocks) if ours else blocks))
    own = grain(module)
    assert [len(b) for b in own.branches] == [9, 9, 6]
    mask = own.expand({BLOCKS: torch.tensor([False, False, True])}, full(module))
    x = torch.rand(4, *SHAPE)
    for _ in range(3):
        module(x)  # BatchNorm's statistics
    module.load_state_dict({**module.state_dict(), **masks.apply(dict(module.state_dict()), mask)})
    module.eval()
    stem, last, head = module[0], module[3], module[4:]
    middle = blocks[1].downsample(stem(x).relu()).relu()
    expected = head(last(middle))
    torch.testing.assert_close(module(x), expected, rtol=0, atol=0)
    state = state_of(module, step=0)
    small = smaller(module, state, mask, input_shape=SHAPE)
    torch.testing.assert_close(small(x), expected, rtol=0, atol=0)
    left = {n for n, _ in small.named_parameters()}
    assert left == {n for n in state.weights if n not in mask or bool(mask[n].any())}
    assert len(left) == len(state.weights) - 18
    assert not any(isinstance(m, Block) for m in small.modules())


class Chain(nn.Module):
    """Branches with nothing between their additions, so that one's shortcut is the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Linear(36, 5), nn.Linear(5, 3)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 5))
            for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for branch in self.branches:
            x = x + branch(x)
        output: Tensor = self.fc(x)
        return output


@pytest.mark.parametrize("kept", [[0], [3], [1, 2], []])
def test_any_branches_are_left_out_of_a_smaller_network(kept: list[int]) -> None:
    module = Chain()
    own = grain(module)
    alive = torch.tensor([i in kept for i in range(4)])
    mask = own.expand({BLOCKS: alive}, full(module))
    values = {**module.state_dict(), **masks.apply(dict(module.state_dict()), mask)}
    module.load_state_dict(values)
    before = {n: p.clone() for n, p in module.named_parameters()}
    small = smaller(module, state_of(module, step=0), mask, input_shape=SHAPE)
    x = torch.rand(4, *SHAPE)
    torch.testing.assert_close(small(x), module(x), rtol=0, atol=0)
    names = {n for n, _ in small.named_parameters()}
    gone = [n for n in before if n.startswith("branches") and int(n.split(".")[1]) not in kept]
    assert names == before.keys() - gone
    assert all(torch.equal(p, before[n]) for n, p in module.named_parameters())


class Wired(nn.Module):
    """Layers a, b, c of 4 channels, wired by ``how``."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.bias = nn.Parameter(torch.ones(4, 1, 1))
        self.fc = nn.Linear(4, 3)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.fc(self.how(self, self.stem(x)).mean((2, 3)))
        return output


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (lambda m, x: x + m.b(m.a(x)), ["ab"]),
        (lambda m, x: torch.add(m.b(m.a(x)), x), ["ab"]),
        (lambda m, x: m.a(x).add(x), ["a"]),
        (lambda m, x: m.c(x) + m.b(m.a(x)), ["ab"]),  # c is a projection
        (lambda m, x: x + m.a(x) + m.b(x), ["a", "b"]),
        (lambda m, x: m.b(x) + m.a(x), []),  # neither is the shortcut
        (lambda m, x: x + m.b(m.a(x)).sigmoid(), []),  # of nothing: a half
        (lambda m, x: m.b(m.a(x)) + m.bias, []),  # without its layers it would be cut
        (lambda m, x: x + m.c(y := m.b(x) + m.a(m.a(x))) + 0 * y, []),  # y is read elsewhere
        (lambda m, x: x + m.c((y := m.a(x)) + m.b(y)), ["b"]),  # the inner one
        (lambda m, x: m.a(x + m.b(m.a(x))), []),  # a is used outside too
        (lambda m, x: x + m.b(m.a(x)) + nn.functional.conv2d(x, m.a.weight), []),
        (lambda m, x: torch.cat([x[:, :2], m.a(x)[:, 2:]], 1), []),
    ],
)
def test_how_blocks_are_told(how: Any, expected: list[str]) -> None:
    module = Wired(how)
    if not expected:
        with pytest.raises(ValueError, match=r"^got residual_blocks, allowed: a network with shor"):
            grain(module)
        return
    found = [sorted(b) for b in grain(module).branches]
    assert found == [[f"{c}.{p}" for c in names for p in ("bias", "weight")] for names in expected]


def test_a_network_that_cannot_be_traced_is_a_value_error() -> None:
    module = Wired(lambda m, x: x if bool(x.sum() > 0) else m.a(x))
    with pytest.raises(ValueError, match=r"^got residual_blocks, .* torch.fx can trace \("):
        grain(module)


# Scores, masks and controls


def test_blocks_worked_by_hand() -> None:
    module = Wired(lambda m, x: (y := x + m.b(m.a(x))) + m.c(y))
    own = grain(module)
    mask = full(module)
    scores = {n: torch.zeros(4, 4, 1, 1) for n in own.scored}
    scores["a.weight"][0, 0], scores["b.weight"][0, 0], scores["c.weight"][0, 0] = 3.0, 5.0, 6.0
    of_blocks = own.score(scores, mask)
    assert of_blocks[BLOCKS].tolist() == [8 / 32, 6 / 16]
    alive = masks.keep_top(of_blocks, own.alive(mask), 1)
    child = own.expand(alive, mask)
    assert alive[BLOCKS].tolist() == own.alive(child)[BLOCKS].tolist() == [False, True]
    gone = {n for n, m in child.items() if not bool(m.any())}
    assert gone == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert set(child) - gone == {"stem.weight", "c.weight", "c.bias", "fc.weight"}
    assert all(bool(child[n].all()) for n in set(child) - gone)
    assert masks.density(child) == (4 + 16 + 12) / (4 + 48 + 12)


def test_controls_drop_whole_blocks() -> None:
    """Shuffled among blocks of equal shapes: which of them stay changes, and nothing else."""
    module = shallow(*(BasicBlock(8, 8, 1) for _ in range(4)), BasicBlock(8, 4, 1), channels=4)
    own = grain(module)
    dropped = own.expand({BLOCKS: torch.tensor([True, False, False, True, False])}, full(module))
    shuffled = set()
    for seed in range(40):
        mask = own.shuffle(dropped, torch.Generator().manual_seed(seed))
        kept = own.alive(mask)[BLOCKS].tolist()
        assert not kept[4] and sum(kept) == 2
        assert masks.density(mask) == masks.density(dropped)
        again = own.expand(own.alive(mask), full(module))
        assert mask.keys() == again.keys() and all(torch.equal(mask[n], again[n]) for n in again)
        shuffled.add(tuple(kept))
    assert len(shuffled) == 6, "all pairs of four"
    # Four blocks of 1,152 weights and one of 432; two large ones are dropped by their scores.
    drawn = own.draw({BLOCKS: torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0])}, dropped)
    assert own.alive(drawn)[BLOCKS].tolist() == [False, True, True, False, True]
    few = own.expand({BLOCKS: torch.tensor([False] * 4 + [True])}, full(module))
    none = own.draw({BLOCKS: torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])}, few)
    assert not bool(own.alive(none)[BLOCKS].any()), "none is nearer to 432 than one of 1,152"


# Really gone


@pytest.mark.parametrize(
    ("name", "options", "extra"),
    [
        ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}, {}),
        ("SGD", {"lr": 0.05, "momentum": 0.9}, {"grad_clip": 0.3}),
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}, {"label_smoothing": 0.1}),
    ],
)
def test_training_follows_the_network_of_shortcuts(
    make_search: Any, make_workshop: Any, name: str, options: Any, extra: Any
) -> None:
    """A block with an identity and one with a projection: float64, 1e-10."""
    gone = ["stage1.1", "stage2.0", "stage3.1"]
    optimizer = functools.partial(getattr(torch.optim, name), **options)

    def dense(**model: Any) -> Any:
        search = make_search(
            model=functools.partial(ResNet14, **model), optimizer=optimizer, levels=0, **extra
        )
        return search.dense(0)

    big, small = dense(), dense(gone=gone)
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
    module = ResNet14(input_shape=SHAPE, num_classes=3)
    alive = {BLOCKS: torch.tensor([n not in gone for n in NAMES])}
    big = big.replace(mask=grain(module).expand(alive, big.mask), start=start)
    small = small.replace(
        start=TrainState(
            step=0,
            weights={n: start.weights[n] for n in small.start.weights},
            buffers={n: start.buffers[n] for n in small.start.buffers},
        )
    )
    x = torch.rand(8, *SHAPE)
    cut = ResNet14(input_shape=SHAPE, num_classes=3, gone=gone).eval()
    cut.load_state_dict({**small.start.weights, **small.start.buffers})
    module.load_state_dict({**masks.apply(start.weights, big.mask), **start.buffers})
    torch.testing.assert_close(module.eval()(x), cut(x), rtol=0, atol=1e-10)
    a, b = make_workshop().complete([big]), make_workshop().complete([small])
    (a,), (b,) = a, b
    for key, tensor in b.state("end").weights.items():
        torch.testing.assert_close(a.state("end").weights[key], tensor, rtol=0, atol=1e-10)
    for key, tensor in b.state("end").buffers.items():
        torch.testing.assert_close(a.state("end").buffers[key], tensor, rtol=0, atol=1e-10)
    moved = b.state("end").weights["conv1.weight"] - small.start.weights["conv1.weight"]
    assert moved.abs().max() > 1e-3
    for key, kept in big.mask.items():
        assert not bool(a.state("end").weights[key][~kept].any())


# Searches


def test_counts_are_of_blocks_and_all_may_go(make_search: Any, make_workshop: Any) -> None:
    search = make_search(model=ResNet14, granularity=ResidualBlocks(), levels=2)
    rows = [row for (row,) in search.run(make_workshop())]
    counts = [int(search.grain.alive(r.training.mask)[BLOCKS].sum()) for r in rows]
    assert counts == [6, 4, 2]
    assert masks.nested(rows[2].training.mask, rows[1].training.mask)
    for row in rows[1:]:
        state = row.training.start.weights
        assert all(not bool(state[n][~m].any()) for n, m in row.training.mask.items())
        assert row.stored.done["density"] == masks.density(row.training.mask)
    bare = make_search(
        model=ResNet14,
        granularity=ResidualBlocks(),
        allocation=GlobalTop(),
        schedule=OneShot(rate=0.99),
        levels=1,
    )
    _, (ticket,) = bare.run(make_workshop())
    mask = ticket.training.mask
    assert not bool(bare.grain.alive(mask)[BLOCKS].any())
    assert all(bool(m.all()) for n, m in mask.items() if n in bare.grain.excluded)
    end = ResNet14(input_shape=SHAPE, num_classes=3).eval()
    state = ticket.stored.state("end")
    end.load_state_dict({**state.weights, **state.buffers})
    one, other = end(torch.rand(2, *SHAPE))
    assert not torch.allclose(one, other), "it is not cut"


def test_a_dropped_block_is_no_layer_collapse() -> None:
    own = grain(ResNet14(input_shape=SHAPE, num_classes=3))
    layers = {"stage1.0.conv1.weight": {"kept": 0}, "stage2.0.shortcut.conv.weight": {"kept": 0}}
    stored = SimpleNamespace(status="done", done={"layers": layers})
    said: list[str] = []
    row: Any = SimpleNamespace(seed=0, variant="ticket", level=1, stored=stored)
    display: Any = SimpleNamespace(say=said.append)
    _notice([row], own.bypassed, display)
    (line,) = said
    assert line.endswith("layer collapse, nothing is left of stage2.0.shortcut.conv.weight")


class Alike(nn.Sequential):
    """Four blocks of the same shape: 4,608 weights beside the stem's 72 and the output's 24."""

    def __init__(self, *, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(*shallow(*(BasicBlock(8, 8, 1) for _ in range(4))))


def test_target_densities_need_blocks_of_equal_size(make_search: Any, make_workshop: Any) -> None:
    options = {"granularity": ResidualBlocks(), "levels": 1}
    unequal = make_search(model=ResNet14, schedule=Targets(densities=[0.5]), **options)
    with pytest.raises(ValueError, match=r"densities: got 0.5, allowed: a schedule of rates"):
        list(unequal.run(make_workshop()))
    equal = make_search(model=Alike, schedule=Targets(densities=[0.5]), **options)
    assert equal.grain.weights_per_unit == 1152
    _, (ticket,) = equal.run(make_workshop())
    assert masks.remaining(masks.prunable(ticket.training.mask)) == 72 + 24 + 2 * 1152
    assert state_of(Alike(input_shape=SHAPE, num_classes=3), step=0).weights.keys() >= set(
        ticket.training.mask
    )
