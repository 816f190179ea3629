"""Supermasks: tickets found by training the chance of each weight to take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lth.finder.frozen import SCORES, check_lr, check_network, freeze, straight_through
from lth.history import History
from lth.outlook import Ahead, Outlook
from lth.protocol import Allocate, Allocation
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask, TrainState

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class Supermask:
    """Zhou et al. (2019), section 5: weights stay theta_0, each takes part by chance.

    See ``Bernoulli``. All scores start at ``initial`` (published: 0, a chance of
    1/2) and are trained for T updates by the run's optimizer at ``lr`` (None:
    its own; published: SGD at 100). ``rescale`` is dynamic weight rescaling.
    Its own result is the untrained network of the scores above 0, at whatever
    density that is; the ticket's mask is the level's budget of all scores.
    """

    lr: float | None = None
    initial: float = 0.0
    rescale: bool = False
    trains_weights: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_lr(self.lr)

    @property
    def variants(self) -> Sequence[str]:
        return ("supermask",)

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
        fixed = tuple(n for n in history.mask if n in history.excluded)
        scores = {n: torch.full(m.shape, self.initial) for n, m in history.mask.items()}
        choice = Bernoulli(rescale=self.rescale, fixed=fixed)
        return freeze(ticket, history=history, choice=choice, scores=scores, lr=self.lr)

    def mask(self, found: Stored, *, history: History, allocate: Allocate) -> Mask:
        """The highest scores at the end."""
        return allocate(found.state(SCORES).weights)

    def controls(self, finding: Training) -> Mapping[str, Training]:
        return {}


@dataclass(frozen=True, kw_only=True)
class Bernoulli:
    """A weight takes part with chance sigmoid(score), drawn anew in every forward pass.

    Drawn from the global generator, which the stream ``module`` seeds at every
    step; the gradient passes straight through to the chance: that of a score is
    the gradient of w h by h, times sigmoid'(score). In eval mode the weights of
    a chance above 1/2 take part (the paper averages ten draws). ``rescale``
    multiplies a layer by its number of weights over the number that takes part;
    as in the authors' code the gradient counts that factor too. Layers in
    ``fixed`` take part whole.
    """

    rescale: bool = False
    fixed: tuple[str, ...] = ()

    def mask(self, name: str, scores: Tensor, alive: Tensor) -> Tensor:
        return alive if name in self.fixed else alive & (scores > 0)

    def __call__(self, name: str, scores: Tensor, alive: Tensor, *, train: bool) -> Tensor:
        if name in self.fixed:
            return alive.to(scores.dtype)
        chance = scores.sigmoid()
        if train:
            drawn = alive & (torch.rand_like(chance) < chance)
        else:
            drawn = self.mask(name, scores.detach(), alive)
        chosen = straight_through(drawn, chance)
        return chosen * (chosen.numel() / chosen.sum().clamp(min=1)) if self.rescale else chosen
