"""Control: the weights that the criterion likes least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lth.counts import Counts, counts_of
from lth.option import one_of
from lth.protocol import Materials
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search


@dataclass(frozen=True, kw_only=True)
class InvertedScores:
    """The mask of the negated scores, as many weights in each layer (Frankle et al. 2021).

    The parent is pruned over again: the same survivors, criterion, scored
    state and ``score_steps``, but every score times -1 and the ticket's own
    counts, so that only the ranking within layers is turned round. Weights,
    biases, norms and buffers come from the dense network, span and data order
    from the ticket. A criterion that loses nothing by it has found the layers'
    counts and no more.
    """

    draws: int = 1
    searched: ClassVar[bool] = True
    needs_scores: ClassVar[bool] = True
    rescores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("draws", self.draws, [1], why="nothing is drawn")

    def check(self, search: Search) -> None:
        """A mask that no scores made has none to be inverted."""
        if search.finder is not None:
            name = search.finder.variants[0]
            raise ValueError(f"finder: got {name}, allowed: null (with baseline inverted_scores)")

    def __call__(self, ticket: Training, given: Materials) -> Training:
        lineage = given.history.lineage
        mask = lineage.prune(
            lineage.parent,
            given.history,
            change=lambda scores: {n: -s for n, s in scores.items()},
            allocation=Counts(counts=counts_of(given.history.grain.alive(ticket.mask))),
        )
        return ticket.replace(mask=mask, start=given.dense_start)
