"""Control: random tickets whose layers thin out with depth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from lth.counts import share
from lth.mask import keep_top, remaining
from lth.option import at_least
from lth.protocol import Materials
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class SmartRatio:
    """As many weights as the ticket, at random within layers of smart ratios (Su et al. 2020).

    Of L layers in the module's order, the density of layer l is proportional
    to ``((L - l + 1)^2 + (L - l + 1)) / l ** decay``; the ``output`` layer keeps
    that part of its weights, but at most half of the budget. ``decay`` is 0 for
    the authors' ResNets, 2 for their VGGs. Layers that would exceed their size
    stay whole and the others share the rest in proportion (their code hands it to
    the next layer); the total is the ticket's. Excluded layers stay whole and
    are not counted among the L. Everything else is the dense network's; span
    and data order are the ticket's.
    """

    output: float = 0.3
    decay: float = 0.0
    draws: int = 1
    searched: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.output <= 1:
            raise ValueError(f"output: got {self.output}, allowed: 0 < output <= 1 (a density)")
        at_least("decay", self.decay, 0)
        at_least("draws", self.draws, 1)

    def check(self, search: Search) -> None:
        """The ratios are of single weights."""
        if search.grain.fixed or search.grain.weights_per_unit != 1:
            name = type(search.granularity).__module__.rpartition(".")[2]
            raise ValueError(
                f"granularity: got {name}, allowed: weights (with baseline smart_ratio)"
            )

    def __call__(self, ticket: Training, given: Materials) -> Training:
        free = given.history.prunable()
        sizes = {n: ticket.mask[n].numel() for n in free}
        total = remaining({n: ticket.mask[n] for n in free})
        mask = dict(ticket.mask)
        counts = smart_counts(sizes, free, total, output=self.output, decay=self.decay)
        for name, count in counts.items():
            shape = mask[name].shape
            scores = torch.rand(shape, generator=given.stream("mask", name), dtype=torch.float64)
            everything = torch.ones(shape, dtype=torch.bool)
            mask |= keep_top({name: scores}, {name: everything}, count)
        return ticket.replace(mask=mask, start=given.dense_start)


def smart_counts(
    sizes: Mapping[str, int], layers: Mapping[str, str], total: int, *, output: float, decay: float
) -> dict[str, int]:
    """How many of ``total`` weights each layer keeps; ``layers`` gives their types in order."""
    depth = len(sizes)
    ratios = {n: ((depth - i) ** 2 + depth - i) / (i + 1) ** decay for i, n in enumerate(sizes)}
    last = [n for n in sizes if layers[n] == "output"]
    inner = {n: size for n, size in sizes.items() if n not in last}
    fixed = {n: min(round(output * sizes[n]), total // 2) for n in last if inner}
    # What the others have no room for falls to the output layer.
    fixed = {n: max(c, total - sum(inner.values())) for n, c in fixed.items()}
    rest = {n: size for n, size in sizes.items() if n not in fixed}
    ideal = {n: ratios[n] * size for n, size in rest.items()}
    counts = share(ideal, rest, total - sum(fixed.values())) | fixed
    return {n: counts[n] for n in sizes}
