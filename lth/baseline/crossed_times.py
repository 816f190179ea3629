"""Control: a mask of one time with the weights of another."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lth.counts import Counts, counts_of
from lth.option import one_of
from lth.protocol import Materials
from lth.training import Training

if TYPE_CHECKING:
    from lth.search import Search

MASKS = ("init", "k", "ticket")
WEIGHTS = ("init", "k", "end")


@dataclass(frozen=True, kw_only=True)
class CrossedTimes:
    """A mask scored at one time, on the dense network's state of another.

    ``mask``: the dense network is scored at theta_0 (``init``) or theta_k
    (``k``) and pruned at once by the run's criterion to the ticket's counts of
    each layer; or the mask is the ``ticket``'s own, found late. ``weights``:
    the dense network at theta_0 (``init``), theta_k (``k``) or its ``end``,
    biases, norms and buffers with them. Span, schedule and data order are the
    ticket's, so only mask and start differ. Two cells have names:

    - ``early_mask_late_weights``: ``mask=init weights=end``, whether weights
      that were trained save a mask that was not (pruning at initialisation
      against pruning after training, Frankle et al. 2021);
    - ``late_mask_early_weights``: ``mask=ticket weights=init``, whether a mask
      that was found late wants theta_k (Frankle et al. 2020); at k = 0 a
      ticket that rewinds its weights is this cell itself, and that is refused.
    """

    mask: str
    weights: str
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("mask", self.mask, MASKS)
        one_of("weights", self.weights, WEIGHTS)
        one_of("draws", self.draws, [1], why="nothing is drawn")

    def check(self, search: Search) -> None:
        """The ticket is no control of itself, and an early state was not watched on its way."""
        if self.mask != "ticket" and hasattr(search.criterion, "watches"):
            raise ValueError(
                f"baseline mask: got {self.mask!r}, allowed: ticket (with a criterion of movement)"
            )

        def when(time: str) -> str:
            return "init" if time == "k" and search.rewind_step == 0 else time

        named = {"initial": "init", "rewound": "k"}
        own = named.get(getattr(search.rewind, "weights", ""))
        if self.mask == "ticket" and own is not None and when(self.weights) == when(own):
            others = [w for w in WEIGHTS if when(w) != when(own)]
            raise ValueError(
                f"baseline weights: got {self.weights!r} with mask=ticket, allowed: "
                f"{', '.join(others)} (from there the ticket starts itself)"
            )

    def __call__(self, ticket: Training, given: Materials) -> Training:
        history, mask = given.history, ticket.mask
        states = {
            "init": lambda: history.initial,
            "k": lambda: history.rewound,
            "end": lambda: history.dense_end,
        }
        if self.mask != "ticket":
            step = history.rewind_step if self.mask == "k" else 0
            mask = history.lineage.prune(
                history.lineage.dense,
                dataclasses.replace(history.of_dense(), prune_at=step),
                allocation=Counts(counts=counts_of(history.grain.alive(ticket.mask))),
            )
        start = dataclasses.replace(states[self.weights](), step=ticket.start.step, optimizer=None)
        return ticket.replace(mask=mask, start=start)
