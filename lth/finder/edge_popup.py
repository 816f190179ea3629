"""Edge-popup: tickets found by training scores of weights that never move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lth.finder.frozen import check_lr, check_network, freeze, straight_through
from lth.history import History
from lth.outlook import Ahead, Outlook
from lth.protocol import Allocate, Allocation
from lth.store.stored import Stored
from lth.stream import generator
from lth.training import Training
from lth.types import Mask, TrainState

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class EdgePopup:
    """Ramanujan et al. (2020): weights stay theta_0, the ``TopScores`` of each layer take part.

    A layer's count is the level's budget for it (that of the ticket which
    criterion and allocation would give; published: ``allocation=uniform``).
    Scores are drawn from U(-b, b), b = 1 / sqrt(fan_in) (Kaiming uniform with
    a = sqrt(5)) and trained for T updates by the run's optimizer at ``lr``
    (None: its own). Biases and norms stay at theta_0 too; running statistics
    follow the data. Its own result is the untrained subnetwork.
    """

    lr: float | None = None
    trains_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_lr(self.lr)

    @property
    def variants(self) -> Sequence[str]:
        return ("edge_popup",)

    def check(self, search: Search) -> None:
        """Each layer needs a weight of its own."""
        check_network(search)

    def ahead(self, level: Outlook) -> list[Ahead]:
        """All T updates, of scores."""
        return [Ahead(first_step=0, last_step=level.train_steps)]

    def __call__(
        self,
        ticket: Training,
        *,
        start: TrainState,
        history: History,
        allocation: Allocation,
        keep: int,
    ) -> Training:
        counts = tuple((n, int(ticket.mask[n].sum())) for n in history.mask)
        scores = {}
        for name, mask in history.mask.items():
            drawn = torch.empty(mask.shape)
            bound = mask[0].numel() ** -0.5
            stream = generator(*ticket.streams["module"], "scores", name)
            scores[name] = drawn.uniform_(-bound, bound, generator=stream)
        choice = TopScores(counts=counts)
        return freeze(ticket, history=history, choice=choice, scores=scores, lr=self.lr)

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """The subnetwork at the end."""
        return found.mask()

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}


@dataclass(frozen=True, kw_only=True)
class TopScores:
    """In each layer its count of weights: those with the largest abs(score), ties to lower indices.

    The gradient passes straight through to abs(score): that of a score is the
    gradient of w h(score) by h, times sign(score), chosen or not (the paper
    writes scores, its code abs(scores)).
    """

    counts: tuple[tuple[str, int], ...]

    def mask(self, name: str, scores: Tensor, alive: Tensor) -> Tensor:
        return top(scores.abs(), alive, dict(self.counts)[name])

    def __call__(self, name: str, scores: Tensor, alive: Tensor, *, train: bool) -> Tensor:
        return straight_through(self.mask(name, scores.detach(), alive), scores.abs())


def top(magnitude: Tensor, alive: Tensor, count: int) -> Tensor:
    """As ``keep_top`` in one layer, by selection: for every forward pass; no value leaves the GPU.

    ``magnitude`` is not negative, and ``alive`` has ``count`` weights or more.
    """
    if count == 0:
        return torch.zeros_like(alive)
    flat = torch.where(alive, magnitude, magnitude.new_tensor(-1.0)).flatten()
    least = flat.topk(count, sorted=False).values.min()  # kthvalue is refused by deterministic GPUs
    above, equal = flat > least, flat == least
    first = equal & (equal.cumsum(0) <= count - above.sum())
    return (above | first).reshape(alive.shape)
