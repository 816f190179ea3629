"""Control: the ticket itself under another data order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class OtherOrder:
    """The ticket's mask and start with another data order, augmentation and module noise.

    What two copies of one ticket differ by is what the order of the data does
    (Frankle et al. 2020, instability).
    """

    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least("draws", self.draws, 1)

    def __call__(self, ticket: Training, given: Materials) -> Training:
        copy = seed_of_draw(given.stream)
        return ticket.replace(
            streams={name: (*key, "copy", copy) for name, key in ticket.streams.items()}
        )


def seed_of_draw(stream: Callable[..., torch.Generator]) -> int:
    """A number that tells this draw's streams from any other's."""
    return int(torch.randint(2**62, (), generator=stream("order")))
