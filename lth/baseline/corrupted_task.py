"""Control: a mask that was found on data with nothing to learn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from lth.dataset.corrupt import corrupt
from lth.option import at_least, one_of
from lth.outlook import Ahead, Outlook
from lth.protocol import Materials
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search

LABELS = ("random", "true")
PIXELS = ("true", "shuffled")


@dataclass(frozen=True, kw_only=True)
class CorruptedTask:
    """The level's mask found on corrupted train data, trained on the true ones (Su et al. 2020).

    The parent (the dense network at level 1, and always under ``one_shot``) is
    trained over again, the same start, steps and data order, but with
    ``labels=random`` (drawn uniformly) or ``pixels=shuffled`` (each image in an
    order of its own) or both; then it is pruned by the run's own criterion and
    budget. The mask starts from the dense network's weights, biases, norms and
    buffers, with the ticket's span and data order. Finding it takes as many
    updates as finding the ticket, so the search steps are the same. Only train
    is corrupted: what selects on validation (``prune_at=early_stop``) sees the truth.
    """

    labels: str = "random"
    pixels: str = "true"
    draws: int = 1
    searched: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("labels", self.labels, LABELS)
        one_of("pixels", self.pixels, PIXELS)
        if (self.labels, self.pixels) == ("true", "true"):
            raise ValueError("labels: got 'true', allowed: random (with pixels=true)")
        at_least("draws", self.draws, 1)

    def check(self, search: Search) -> None:
        """Only what the criterion prunes can be found again."""
        if search.finder is not None:
            name = search.finder.variants[0]
            raise ValueError(f"finder: got {name}, allowed: null (with baseline corrupted_task)")

    def ahead(self, level: Outlook) -> list[Ahead]:
        """The parent on corrupted data, and what comes of it."""
        return [level.parent, level.ticket]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        lineage = given.history.lineage
        task = corrupt(
            ticket.task,
            labels=self.labels == "random",
            pixels=self.pixels == "shuffled",
            seed=int(torch.randint(2**62, (), generator=given.stream("corrupt"))),
        )
        parent = lineage.parent.replace(task=task)
        found = lineage.train(parent)
        if found.status == "diverged":  # then so does what would have come of it
            nowhere = {n: w * torch.nan for n, w in given.dense_start.weights.items()}
            return ticket.replace(start=dataclasses.replace(given.dense_start, weights=nowhere))
        mask = lineage.prune(parent, dataclasses.replace(given.history, parent=found))
        return ticket.replace(mask=mask, start=given.dense_start)
