"""The residual networks for CIFAR: He et al. (2016), section 4.2.

What Frankle et al. call ResNet-18 in their first two papers is ResNet20 here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from torch import Tensor, nn

from lth.option import at_least


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to the block's input.

    Where the shape changes, the input passes a 1x1 convolution with BatchNorm:
    option B, as open_lth has it; He et al. pad with zeros on CIFAR (option A).
    """

    def __init__(self, channels: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, features, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut: nn.Module = nn.Identity()
        if (channels, stride) != (features, 1):
            self.shortcut = nn.Sequential(
                OrderedDict(
                    conv=nn.Conv2d(channels, features, 1, stride, bias=False),
                    bn=nn.BatchNorm2d(features),
                )
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Sequential):
    """A 3x3 stem, three stages of (``depth`` - 2) / 6 blocks, average pooling, one linear layer.

    The stages have ``width``, 2 ``width`` and 4 ``width`` channels; the last
    two halve the image. Raises ValueError for images of less than 4 pixels,
    whose last stage would see no neighbour.
    """

    depth: ClassVar[int]

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int = 16
    ) -> None:
        at_least("width", width, 1)
        if min(input_shape[1:]) < 4:
            raise ValueError(
                f"input_shape: got {input_shape}, allowed: height and width of 4 or more"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(),
        )
        channels = width
        for stage, stride in enumerate((1, 2, 2), start=1):
            blocks = []
            for i in range((self.depth - 2) // 6):
                features = width * 2 ** (stage - 1)
                blocks.append(BasicBlock(channels, features, stride if i == 0 else 1))
                channels = features
            layers[f"stage{stage}"] = nn.Sequential(*blocks)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(channels, num_classes)
        super().__init__(layers)


class ResNet20(ResNet):
    """270,896 weights at width 16 and 10 classes."""

    depth = 20


class ResNet32(ResNet):
    """464,432 weights at width 16 and 10 classes."""

    depth = 32


class ResNet44(ResNet):
    """657,968 weights at width 16 and 10 classes."""

    depth = 44


class ResNet56(ResNet):
    """851,504 weights at width 16 and 10 classes."""

    depth = 56


class ResNet110(ResNet):
    """1,722,416 weights at width 16 and 10 classes."""

    depth = 110
