"""VGG for CIFAR: Simonyan and Zisserman (2015) with BatchNorm and one linear layer."""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import nn

from lth.option import at_least


class VGG(nn.Sequential):
    """Five stages of 3x3 convolutions with BatchNorm, average pooling, one linear layer.

    The stages have 1, 2, 4, 8 and 8 times ``width`` channels, with max-pooling
    between them. The convolutions have a bias, as in open_lth, although
    BatchNorm cancels it. The average is over the whole image, which at 32x32
    is open_lth's pooling by 2. Raises ValueError for images that the
    max-poolings would leave empty.
    """

    convs: ClassVar[tuple[int, ...]]
    """The number of convolutions in each stage."""

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int = 64
    ) -> None:
        at_least("width", width, 1)
        if min(input_shape[1:]) < 16:
            raise ValueError(
                f"input_shape: got {input_shape}, allowed: height and width of 16 or more"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, i = input_shape[0], 0
        for stage, count in enumerate(self.convs):
            if stage:
                layers[f"pool{stage}"] = nn.MaxPool2d(2)
            features = width * min(2**stage, 8)
            for _ in range(count):
                i += 1
                layers[f"conv{i}"] = nn.Conv2d(channels, features, 3, padding=1)
                layers[f"bn{i}"] = nn.BatchNorm2d(features)
                layers[f"relu{i}"] = nn.ReLU()
                channels = features
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, num_classes)
        super().__init__(layers)


class VGG11(VGG):
    """Configuration A: 9,222,848 weights at width 64, 3 channels and 10 classes."""

    convs = (1, 1, 2, 2, 2)


class VGG13(VGG):
    """Configuration B: 9,407,168 weights at width 64, 3 channels and 10 classes."""

    convs = (2, 2, 2, 2, 2)


class VGG16(VGG):
    """Configuration D: 14,715,584 weights at width 64, 3 channels and 10 classes."""

    convs = (2, 2, 3, 3, 3)


class VGG19(VGG):
    """Configuration E: 20,024,000 weights at width 64, 3 channels and 10 classes."""

    convs = (2, 2, 4, 4, 4)
