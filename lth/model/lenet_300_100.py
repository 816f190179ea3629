"""LeNet-300-100: the fully connected network of LeCun et al. (1998)."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from lth.option import at_least


class LeNet300100(nn.Sequential):
    """Two hidden layers of 300 and 100 units with ReLU, for an input of any size.

    266,200 weights at 28x28x1, as in Frankle and Carbin (2019), Figure 2. Of
    another ``width`` the first layer has so many units, the second a third.
    """

    def __init__(
        self, *, input_shape: tuple[int, int, int], num_classes: int, width: int = 300
    ) -> None:
        at_least("width", width, 1)
        second = max(1, round(width / 3))
        super().__init__(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(math.prod(input_shape), width),
                relu1=nn.ReLU(),
                fc2=nn.Linear(width, second),
                relu2=nn.ReLU(),
                fc3=nn.Linear(second, num_classes),
            )
        )
