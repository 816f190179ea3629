"""Blocks by hand: scored by their mean, pruned whole, counted in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth import mask as masks
from lth.allocation.global_top import GlobalTop
from lth.baseline.random_mask import RandomMask
from lth.baseline.shuffled_mask import ShuffledMask
from lth.granularity.blocks import Blocks, Tiles, tiled
from lth.granularity.draw import as_many
from lth.schedule.targets import Targets


def grain(granularity: Blocks, module: nn.Module, *excluded: str) -> Tiles:
    layers = {n: "linear" for n, p in module.named_parameters() if p.ndim > 1}
    return granularity(module, layers=layers, excluded=frozenset(excluded), input_shape=())


def full(module: nn.Module) -> dict[str, Tensor]:
    return {n: torch.ones_like(p, dtype=torch.bool) for n, p in module.named_parameters()}


def test_blocks_worked_by_hand() -> None:
    module = nn.ModuleDict({"a": nn.Linear(6, 4, bias=False)})
    own = grain(Blocks(rows=2, columns=3), module)
    mask = full(module)
    scores = torch.tensor(
        [
            [1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 1.0, 0.0, 0.0, 9.0],
            [2.0, 2.0, 2.0, 0.0, 0.0, 0.0],
            [0.0, 0.0, 3.0, 0.0, 1.0, 0.0],
        ]
    )
    of_blocks = own.score({"a.weight": scores}, mask)["a.weight"]
    expected = torch.tensor([[1.0, 1.5], [1.5, 1 / 6]])
    torch.testing.assert_close(of_blocks, expected)
    alive = masks.keep_top({"a.weight": of_blocks}, own.alive(mask), 2)
    child = own.expand(alive, mask)["a.weight"]
    assert child.int().tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[1, 1, 1, 0, 0, 0]] * 2
    assert torch.equal(own.alive({"a.weight": child})["a.weight"], alive["a.weight"])
    assert own.weights_per_unit == 6


def test_the_kernels_of_a_convolution_lie_in_its_matrix() -> None:
    module = nn.ModuleDict({"a": nn.Conv2d(4, 2, 3, bias=False)})
    own = grain(Blocks(rows=1, columns=2), module)
    mask = own.expand({"a.weight": torch.tensor([[True, False], [False, True]])}, full(module))
    assert mask["a.weight"].flatten(2).sum(-1).tolist() == [[9, 9, 0, 0], [0, 0, 9, 9]]
    assert tiled(mask["a.weight"], 1, 2).shape == (2, 2, 18)


def test_a_layer_that_does_not_divide_stays_whole() -> None:
    module = nn.ModuleDict({"a": nn.Linear(6, 4), "b": nn.Linear(6, 3), "c": nn.Conv2d(2, 2, 3)})
    own = grain(Blocks(), module)
    assert own.excluded == {"b.weight"} and own.weights_per_unit is None
    assert grain(Blocks(), module, "c.weight").weights_per_unit == 4
    with pytest.raises(ValueError, match=r"^rows: got 5 x 5, allowed: .*a.weight 4 x 6"):
        grain(Blocks(rows=5, columns=5), module)
    with pytest.raises(ValueError, match=r"^columns: got 0, allowed: 1 or more"):
        Blocks(columns=0)


def whole_blocks(mask: Tensor) -> bool:
    share = tiled(mask, 2, 2).double().mean(-1)
    return bool(((share == 0) | (share == 1)).all())


def test_a_search_counts_whole_blocks_and_controls_keep_them(
    make_search: Any, make_workshop: Callable[..., Any], tiny_task: Callable[..., Any]
) -> None:
    """conv1 4 x 4 has 4 blocks, conv2 6 x 4 has 6, of 36 weights; fc 3 x 6 stays whole."""
    search = make_search(
        tasks={0: tiny_task(shape=(4, 6, 6))},
        granularity=Blocks(),
        allocation=GlobalTop(),
        baselines={"shuffled_mask": ShuffledMask(), "random_mask": RandomMask(draws=3)},
    )
    _, *levels = search.run(make_workshop())
    for rows, kept in zip(levels, (6, 4), strict=True):  # of 10, then of 6, 40 % pruned
        own = rows[0].training.mask
        for row in rows:
            mask = row.training.mask
            assert whole_blocks(mask["conv1.weight"]) and whole_blocks(mask["conv2.weight"])
            assert bool(mask["fc.weight"].all())
            assert masks.remaining(mask) == 36 * kept + 18
            if row.variant == "shuffled_mask":
                counts = {n: int(m.sum()) for n, m in mask.items()}
                assert counts == {n: int(m.sum()) for n, m in own.items()}
    assert masks.nested(levels[1][0].training.mask, levels[0][0].training.mask)


def test_target_densities_are_met_to_a_block(
    make_search: Any, make_workshop: Callable[..., Any], tiny_task: Callable[..., Any]
) -> None:
    schedule = Targets(densities=[0.5])
    options = {"levels": 1, "tasks": {0: tiny_task(shape=(4, 6, 6))}, "schedule": schedule}
    search = make_search(granularity=Blocks(), **options)
    _, (ticket,) = search.run(make_workshop())
    assert abs(ticket.stored.done["density"] * 378 - 189) <= 18
    uneven = make_search(granularity=Blocks(rows=3, columns=2), **options)
    assert uneven.grain.excluded == {"conv1.weight"} and uneven.grain.weights_per_unit is None
    with pytest.raises(ValueError, match=r"densities: got 0.5, allowed: a schedule of rates"):
        list(uneven.run(make_workshop()))


def test_as_many_weights_from_units_of_different_sizes() -> None:
    """Units of 3 and of 5 weights in the order of their scores: 3 8 11 16 21."""
    scores = {"a": torch.tensor([5.0, 3.0]), "b": torch.tensor([4.0, 2.0, 1.0])}
    none = {n: torch.zeros(len(s), dtype=torch.bool) for n, s in scores.items()}

    def weights(units: dict[str, Tensor]) -> int:
        return 3 * int(units["a"].sum()) + 5 * int(units["b"].sum())

    for target, count in {0: 0, 1: 0, 2: 3, 9: 8, 10: 11, 12: 11, 16: 16, 19: 21, 99: 21}.items():
        assert weights(dict(as_many(scores, none, target, weights))) == count
    safe = {**none, "b": torch.tensor([False, False, True])}
    assert int(as_many(scores, safe, 0, weights)["b"].sum()) == 1
