"""A mask of whole units trains as the physically smaller network does (float64, 1e-10)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lth.event.evaluate import Evaluate
from lth.protocol import Result
from lth.training import Training
from lth.types import TrainState

ALIVE = (torch.tensor([0, 2, 3, 5, 8, 9]), torch.tensor([1, 2, 4, 6, 7]))
"""The living units of the hidden layers, of 10 and of 8."""


class Double(nn.Module):
    """The perceptron in float64; data come in float32."""

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        hidden: tuple[int, int] = (10, 8),
    ) -> None:
        super().__init__()
        size = input_shape[0] * input_shape[1] * input_shape[2]
        self.fc1 = nn.Linear(size, hidden[0], dtype=torch.float64)
        self.fc2 = nn.Linear(hidden[0], hidden[1], dtype=torch.float64)
        self.fc3 = nn.Linear(hidden[1], num_classes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x.double().flatten(1)).relu()
        return self.fc3(self.fc2(x).relu())


def cut(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The smaller network's tensors."""
    first, second = ALIVE
    return {
        "fc1.weight": weights["fc1.weight"][first],
        "fc1.bias": weights["fc1.bias"][first],
        "fc2.weight": weights["fc2.weight"][second][:, first],
        "fc2.bias": weights["fc2.bias"][second],
        "fc3.weight": weights["fc3.weight"][:, second],
        "fc3.bias": weights["fc3.bias"],
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
        ("Adam", {"lr": 1e-2}),
        ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        ("RMSprop", {"lr": 1e-3, "momentum": 0.9}),
    ],
)
@pytest.mark.parametrize("extra", [{}, {"grad_clip": 0.5}, {"label_smoothing": 0.1}])
def test_survivors_follow_the_smaller_network(
    name: str,
    options: dict[str, Any],
    extra: dict[str, float],
    make_training: Callable[..., Training],
    train: Callable[..., Result],
) -> None:
    optimizer = functools.partial(getattr(torch.optim, name), **options)
    big = make_training(model=Double, steps=40, optimizer=optimizer, **extra)
    ones = {n: torch.zeros_like(w) for n, w in big.start.weights.items()}
    first, second = ALIVE
    ones["fc1.weight"][first] = 1
    ones["fc1.bias"][first] = 1
    ones["fc2.weight"][second[:, None], first] = 1
    ones["fc2.bias"][second] = 1
    ones["fc3.weight"][:, second] = 1
    mask = {n: m.bool() for n, m in ones.items() if n != "fc3.bias"}
    big = big.replace(mask=mask)
    small = make_training(
        model=functools.partial(Double, hidden=(6, 5)), steps=40, optimizer=optimizer, **extra
    )
    start = TrainState(step=0, weights=cut(dict(big.start.weights)), buffers={})
    small = small.replace(start=start)
    a, b = train(big, Evaluate()), train(small, Evaluate())
    assert a.end.weights["fc1.weight"].dtype == torch.float64
    for weight, tensor in cut(dict(a.end.weights)).items():
        torch.testing.assert_close(tensor, b.end.weights[weight], rtol=0, atol=1e-10)
        assert float((tensor - start.weights[weight]).abs().max()) > 1e-3
    for x, y in zip(a.record.metrics[1:], b.record.metrics[1:], strict=True):
        assert x["batch_loss"] == pytest.approx(y["batch_loss"], rel=1e-6)
        assert x["val_loss"] == pytest.approx(y["val_loss"], rel=1e-6)
