"""Conv-2, Conv-4 and Conv-6: the small VGG-like networks of Frankle and Carbin (2019), Figure 2."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from lth.option import at_least


class Conv(nn.Sequential):
    """Pairs of 3x3 convolutions, each pair max-pooled; then 256, 256 and the classes. No norm.

    The first pair has ``width`` channels, each later one twice as many; the two
    linear layers have ``hidden`` units. Raises ValueError for images that the
    poolings would leave empty.
    """

    pairs: ClassVar[int]

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        width: int = 64,
        hidden: int = 256,
    ) -> None:
        at_least("width", width, 1)
        at_least("hidden", hidden, 1)
        features, *sides = input_shape
        if min(sides) < 2**self.pairs:
            raise ValueError(
                f"input_shape: got {input_shape}, "
                f"allowed: height and width of {2**self.pairs} or more"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for pair in range(1, self.pairs + 1):
            for i in (2 * pair - 1, 2 * pair):
                layers[f"conv{i}"] = nn.Conv2d(features, width, 3, padding=1)
                layers[f"relu{i}"] = nn.ReLU()
                features = width
            layers[f"pool{pair}"] = nn.MaxPool2d(2)
            width *= 2
        for side in sides:
            features *= side // 2**self.pairs
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(features, hidden)
        layers["fc1_relu"] = nn.ReLU()
        layers["fc2"] = nn.Linear(hidden, hidden)
        layers["fc2_relu"] = nn.ReLU()
        layers["fc3"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)


class Conv2(Conv):
    """64, 64: 4,300,992 weights at 32x32x3."""

    pairs = 1


class Conv4(Conv):
    """64, 64, 128, 128: 2,425,024 weights at 32x32x3."""

    pairs = 2


class Conv6(Conv):
    """64, 64, 128, 128, 256, 256: 2,261,184 weights at 32x32x3 (the paper prints 1.7M)."""

    pairs = 3
