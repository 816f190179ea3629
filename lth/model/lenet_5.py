"""LeNet-5 in the form that the pruning literature uses: Caffe's."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from lth.option import at_least


class LeNet5(nn.Sequential):
    """Unpadded 5x5 convolutions of 20 and 50 channels, each max-pooled; 500 hidden units.

    Caffe's ``examples/mnist/lenet.prototxt``, which SNIP (Lee et al. 2019)
    prunes: the only ReLU follows the hidden layer. 430,500 weights at 28x28x1.
    Of another ``width`` the layers have width, 2.5 width and 25 width. Raises
    ValueError for images that the second pooling would leave empty.
    """

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int = 20
    ) -> None:
        at_least("width", width, 1)
        channels, *sides = input_shape
        if min(sides) < 16:
            raise ValueError(
                f"input_shape: got {input_shape}, allowed: height and width of 16 or more"
            )
        pixels = math.prod(((side - 4) // 2 - 4) // 2 for side in sides)
        second, hidden = round(2.5 * width), 25 * width
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, width, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(width, second, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(second * pixels, hidden),
                relu1=nn.ReLU(),
                fc2=nn.Linear(hidden, num_classes),
            )
        )
