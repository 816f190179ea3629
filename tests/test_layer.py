"""Which parameters may be pruned, and how patterns mean them."""

from __future__ import annotations

from collections import OrderedDict

import pytest
from torch import nn

from lth.layer import kinds, matches, select, uses


def net(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def test_kinds_are_weights_of_linear_and_conv() -> None:
    model = net(
        conv=nn.Conv2d(1, 2, 3),
        norm=nn.BatchNorm2d(2),
        deep=net(conv=nn.Conv1d(1, 1, 1), embed=nn.Embedding(2, 2)),
        fc1=nn.Linear(2, 2),
        ln=nn.LayerNorm(2),
        fc2=nn.Linear(2, 2),
    )
    assert list(kinds(model).items()) == [
        ("conv.weight", "conv"),
        ("deep.conv.weight", "conv"),
        ("fc1.weight", "linear"),
        ("fc2.weight", "output"),
    ]


def test_the_output_is_the_last_linear_else_the_last_layer() -> None:
    assert kinds(net(fc=nn.Linear(1, 1), conv=nn.Conv2d(1, 1, 1))) == {
        "fc.weight": "output",
        "conv.weight": "conv",
    }
    assert kinds(net(a=nn.Conv2d(1, 1, 1), b=nn.Conv3d(1, 1, 1))) == {
        "a.weight": "conv",
        "b.weight": "output",
    }
    assert kinds(nn.Linear(1, 1)) == {"weight": "output"}


def test_a_network_without_prunable_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential has no Linear or Conv layer to prune"):
        kinds(net(norm=nn.BatchNorm1d(2)))


LAYERS = {"conv1.weight": "conv", "conv2.weight": "conv", "fc.weight": "output"}


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], []),
        (["conv"], ["conv1.weight", "conv2.weight"]),
        (["output", "conv1.weight"], ["conv1.weight", "fc.weight"]),  # in the network's order
        (["*"], list(LAYERS)),
        (["conv[2].*", "conv2*"], ["conv2.weight"]),
    ],
)
def test_select(patterns: list[str], chosen: list[str]) -> None:
    assert select(LAYERS, patterns) == chosen


@pytest.mark.parametrize("pattern", ["linear", "conv3.weight", "Conv", "conv1"])
def test_a_pattern_that_means_no_layer_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=f"got '{pattern}', allowed: a layer type .conv, output"):
        select(LAYERS, ["conv", pattern])


def test_matches_by_name_or_type() -> None:
    assert matches("a.weight", "conv", "conv")
    assert matches("a.weight", "conv", "a.*")
    assert not matches("a.weight", "conv", "b.*")
    assert not matches("A.weight", "conv", "a.*")


def test_uses_are_output_positions() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(4 * 9, 7), nn.Linear(7, 3)
    )
    net.train()
    assert uses(net, (2, 6, 6)) == {"0.weight": 9, "2.weight": 1, "3.weight": 1}
    assert net.training and not net[0]._forward_hooks
