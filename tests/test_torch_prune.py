"""Masks to and from torch.nn.utils.prune, which is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lth import mask as masks
from lth.torch_prune import apply_mask, read_mask


def network() -> nn.Sequential:
    """conv-ReLU-linear of 3 x 1 x 3 x 3 and 5 x 12 weights, with biases."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))


NAMES = ("0.weight", "3.weight")
x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in net.named_parameters()}


def magnitudes(net: nn.Module) -> dict[str, Tensor]:
    return {n: w.abs() for n, w in weights(net).items() if n in NAMES}


def same(a: Any, b: Any) -> bool:
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) for n in a)


def by_l1(net: Any) -> None:
    prune.l1_unstructured(net[0], "weight", amount=7)
    prune.l1_unstructured(net[3], "weight", amount=0.5)


def globally(net: Any) -> None:
    prune.global_unstructured(
        [(net[0], "weight"), (net[3], "weight")],
        pruning_method=prune.L1Unstructured,
        amount=40,
    )


def randomly(net: Any) -> None:
    prune.random_unstructured(net[0], "weight", amount=5)
    prune.random_unstructured(net[3], "bias", amount=2)


def by_rows(net: Any) -> None:
    prune.ln_structured(net[3], "weight", amount=2, n=2, dim=0)


@pytest.mark.parametrize("how", [by_l1, globally, randomly, by_rows])
def test_what_torch_pruned_is_read_and_put_on_again(how: Callable[[Any], None]) -> None:
    net, other = network(), network()
    how(net)
    found = read_mask(net)
    assert all(m.dtype == torch.bool for m in found.values())
    apply_mask(other, found)
    assert same(net.state_dict(), other.state_dict())
    assert torch.equal(net(x), other(x))


def test_l1_unstructured_agrees() -> None:
    net = network()
    full = masks.full(weights(net), NAMES)
    scores = magnitudes(net)
    mine = {
        **masks.keep_top(scores, {"0.weight": full["0.weight"]}, 27 - 7),
        **masks.keep_top(scores, {"3.weight": full["3.weight"]}, 30),
    }
    by_l1(net)
    assert same(read_mask(net), mine)


def test_global_unstructured_agrees() -> None:
    net = network()
    mine = masks.keep_top(magnitudes(net), masks.full(weights(net), NAMES), 87 - 40)
    globally(net)
    assert same(read_mask(net), mine)


def test_random_unstructured_agrees_in_its_counts_and_covers_biases() -> None:
    net = network()
    randomly(net)
    found = read_mask(net)
    assert {n: int(m.sum()) for n, m in found.items()} == {"0.weight": 22, "3.bias": 3}


def test_ln_structured_agrees() -> None:
    net = network()
    norms = net[3].weight.detach().norm(dim=1)
    weakest = set(norms.argsort()[:2].tolist())
    by_rows(net)
    rows = read_mask(net)["3.weight"]
    assert {i for i in range(5) if not rows[i].any()} == weakest
    assert all(bool(rows[i].all()) for i in set(range(5)) - weakest)


def test_pruning_twice_is_read_as_what_is_left() -> None:
    net = network()
    by_l1(net)
    first = read_mask(net)
    prune.l1_unstructured(net[0], "weight", amount=4)
    second = read_mask(net)
    assert masks.nested(second, first)
    assert int(second["0.weight"].sum()) == 27 - 7 - 4


def test_a_mask_changes_nothing_but_what_it_masks() -> None:
    net = network()
    before = weights(net)
    mask = masks.keep_top(magnitudes(net), masks.full(before, NAMES), 30)
    apply_mask(net, mask)
    state = net.state_dict()
    assert set(state) == {
        *(f"{n}_{part}" for n in NAMES for part in ("orig", "mask")),
        "0.bias",
        "3.bias",
    }
    for n in NAMES:
        assert torch.equal(state[f"{n}_orig"], before[n])
        assert torch.equal(state[f"{n}_mask"], mask[n].float())
    plain = network()
    plain.load_state_dict(masks.apply(before, mask))
    assert torch.equal(net(x), plain(x))
    # The survivors alone are trained, and removal leaves exact zeros.
    net(x).square().sum().backward()
    assert not bool(dict(net.named_parameters())["3.weight_orig"].grad[~mask["3.weight"]].any())
    for layer in (net[0], net[3]):
        prune.remove(layer, "weight")
    assert same(dict(sorted(net.state_dict().items())), dict(sorted(plain.state_dict().items())))


def test_a_module_that_is_a_layer_itself() -> None:
    layer = nn.Linear(2, 2, bias=False)
    mask = {"weight": torch.tensor([[True, False], [False, True]])}
    apply_mask(layer, mask)
    assert same(read_mask(layer), mask)


@pytest.mark.parametrize(
    ("mask", "fault"),
    [
        ({"9.weight": torch.ones(1).bool()}, "mask: got '9.weight', allowed: a parameter"),
        ({"3.weight": torch.ones(5, 11).bool()}, r"mask of 3.weight: got shape \[5, 11\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(mask: Any, fault: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    good = masks.full(weights(net), ["0.weight"])
    with pytest.raises(ValueError, match=fault):
        apply_mask(net, {**good, **mask})
    assert same(net.state_dict(), before)


def test_a_second_mask_is_refused() -> None:
    net = network()
    full = masks.full(weights(net), NAMES)
    apply_mask(net, full)
    with pytest.raises(ValueError, match="whose 0.weight is pruned already"):
        apply_mask(net, full)


def test_zeros_are_no_mask() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(ValueError, match="got a Sequential without masks"):
        read_mask(net)
