"""Layer-wise allocation: which rate each layer takes, and what it keeps."""

from __future__ import annotations

import pytest
import torch

from lth.allocation.layerwise import Layerwise

LAYERS = {
    "conv1.weight": "conv",
    "conv2.weight": "conv",
    "fc1.weight": "linear",
    "fc2.weight": "output",
}


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        (Layerwise(), [0.2, 0.2, 0.2, 0.1]),
        (Layerwise(output=1.0), [0.2, 0.2, 0.2, 0.2]),
        (Layerwise(output=0.0), [0.2, 0.2, 0.2, 0.0]),
        (Layerwise(rates={"conv": 0.1}), [0.1, 0.1, 0.2, 0.1]),
        (Layerwise(rates={"output": 0.3}), [0.2, 0.2, 0.2, 0.3]),
        (Layerwise(rates={"conv": 0.1, "conv2.*": 0.5}), [0.1, 0.5, 0.2, 0.1]),
        (Layerwise(rates={"conv2.*": 0.5, "conv": 0.1}), [0.1, 0.1, 0.2, 0.1]),  # the last holds
        (Layerwise(rates={"*": 0.4}), [0.4, 0.4, 0.4, 0.4]),
    ],
)
def test_rates(allocation: Layerwise, expected: list[float]) -> None:
    assert list(allocation.layer_rates(LAYERS, 0.2).values()) == expected


def test_a_pattern_without_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="rates: got 'fc9', allowed: a layer type"):
        Layerwise(rates={"fc9": 0.1}).layer_rates(LAYERS, 0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": 1.5}, "output: got 1.5, allowed: 0 to 1"),
        ({"output": -0.1}, "output: got -0.1"),
        ({"rates": {"conv": 1.0}}, "rates.conv: got 1.0, allowed: 0 <= rate < 1"),
        ({"rates": {"conv": -0.1}}, "rates.conv: got -0.1"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layerwise(**options)  # type: ignore[arg-type]


def test_each_layer_keeps_its_own_best() -> None:
    """Layer b's scores are all above layer a's, and a still keeps its half."""
    scores = {"a": torch.tensor([1.0, 3.0, 2.0, 4.0]), "b": torch.tensor([10.0, 30.0, 20.0, 40.0])}
    mask = {n: torch.ones(4, dtype=torch.bool) for n in scores}
    result = Layerwise()(
        scores, mask, layers={"a": "linear", "b": "output"}, rate=0.5, times=1, keep=None
    )
    assert result["a"].tolist() == [False, True, False, True]
    assert result["b"].tolist() == [False, True, True, True]  # output: half the rate


def test_a_total_is_spread_by_the_rates() -> None:
    scores = {n: torch.arange(10.0) for n in ("a", "b")}
    mask = {n: torch.ones(10, dtype=torch.bool) for n in scores}
    layers = {"a": "linear", "b": "linear"}
    result = Layerwise(rates={"b": 0.0})(scores, mask, layers=layers, rate=0.5, times=1, keep=13)
    assert {n: int(m.sum()) for n, m in result.items()} == {"a": 3, "b": 10}
    assert result["a"].nonzero().flatten().tolist() == [7, 8, 9]
