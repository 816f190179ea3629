"""torchvision's residual networks (He et al. 2016, section 4.1), for ImageNet or CIFAR images.

Names of parameters and buffers are torchvision's, so its pretrained weights load.
"""

from __future__ import annotations

from torch import Tensor, nn

from lth.torchvision_import import torchvision


class Block(nn.Module):
    """A block of torchvision with a ReLU of its own for each use, none in place.

    torchvision calls one ReLU two or three times per forward, so that a hook
    on it could not tell which units it sees.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        layers = dict(block.named_children())
        self.num_convs = 3 if "conv3" in layers else 2
        for i in range(1, self.num_convs + 1):
            if i > 1:
                self.add_module(f"relu{i - 1}", nn.ReLU())
            self.add_module(f"conv{i}", layers[f"conv{i}"])
            self.add_module(f"bn{i}", layers[f"bn{i}"])
        self.downsample = layers.get("downsample", nn.Identity())
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for name, layer in self.named_children():
            if name not in ("downsample", "relu"):
                out = layer(out)
        return self.relu(out + self.downsample(x))  # type: ignore[no-any-return]


def _resnet(
    name: str, *, input_shape: tuple[int, int, int], num_classes: int, stem: str
) -> nn.Module:
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"stem: got {stem!r}, allowed: imagenet, cifar")
    channels, *sides = input_shape
    smallest = 32 if stem == "imagenet" else 8  # what the strides reduce to one pixel
    if min(sides) < smallest:
        raise ValueError(
            f"input_shape: got {input_shape}, allowed: height and width of {smallest} or more"
            f" (stem: {stem})"
        )
    net: nn.Module = getattr(torchvision().models, name)(num_classes=num_classes)
    if stem == "cifar":
        net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)
    net.relu = nn.ReLU()
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        blocks = net.get_submodule(stage).children()
        setattr(net, stage, nn.Sequential(*(Block(block) for block in blocks)))
    return net


def ResNet18(
    *, input_shape: tuple[int, int, int], num_classes: int, stem: str = "imagenet"
) -> nn.Module:
    """torchvision's ``resnet18``: 11,678,912 weights with the ImageNet stem and 1,000 classes.

    ``stem``: ``imagenet`` (7x7 with stride 2, then max-pooling) or ``cifar``
    (3x3 with stride 1, no pooling), for images from 32 or from 8 pixels.
    """
    return _resnet("resnet18", input_shape=input_shape, num_classes=num_classes, stem=stem)


def ResNet34(
    *, input_shape: tuple[int, int, int], num_classes: int, stem: str = "imagenet"
) -> nn.Module:
    """torchvision's ``resnet34``; ``stem`` as in ``ResNet18``."""
    return _resnet("resnet34", input_shape=input_shape, num_classes=num_classes, stem=stem)


def ResNet50(
    *, input_shape: tuple[int, int, int], num_classes: int, stem: str = "imagenet"
) -> nn.Module:
    """torchvision's ``resnet50`` (stride in the 3x3 convolution); ``stem`` as in ``ResNet18``."""
    return _resnet("resnet50", input_shape=input_shape, num_classes=num_classes, stem=stem)
