"""Control: the ticket's connections with fresh values."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch

from lth.option import at_least, one_of
from lth.outlook import Ahead, Outlook
from lth.protocol import Materials
from lth.training import Training

ORIGINS = ("init", "dense_k", "k")


@dataclass(frozen=True, kw_only=True)
class RandomReinit:
    """The ticket's mask on a fresh draw theta_0' of the whole network (Frankle & Carbin 2019).

    Biases, norms and buffers are fresh too; the fan is the dense one. A new
    theta_0' is drawn at every level and draw. ``origin``:

    - ``init``: trained for all T steps from 0, warm-up included;
    - ``dense_k``: theta_0' is first trained dense for k steps, then masked and
      trained from k to T: the strict control for k > 0;
    - ``k``: masked at once and trained from k to T (open_lth's default).

    At k = 0 the three are bit-equal.
    """

    origin: str = "init"
    draws: int = 1
    searched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of("origin", self.origin, ORIGINS)
        at_least("draws", self.draws, 1)

    def _first(self, k: int) -> int:
        return 0 if self.origin == "init" else k

    def ahead(self, level: Outlook) -> list[Ahead]:
        """Its Training, and before it the k dense steps of ``dense_k``; at k = 0 all are one."""
        k, draw = level.rewind_step, level.draw
        origin = self.origin if k > 0 else ORIGINS[0]
        own = Ahead(
            first_step=self._first(k),
            last_step=level.train_steps,
            what=("random_reinit", origin, draw),
        )
        dense = Ahead(first_step=0, last_step=k, what=("dense_k", draw))
        return [dense, own] if origin == "dense_k" else [own]

    def __call__(self, ticket: Training, given: Materials) -> Training:
        k, first = given.history.rewind_step, self._first(given.history.rewind_step)
        theta = given.fresh()
        rate = dataclasses.replace(ticket.learning_rate, hold=False)
        if self.origin == "dense_k" and k > 0:
            dense = ticket.replace(
                mask={n: torch.ones_like(m) for n, m in ticket.mask.items()},
                start=theta,
                first_step=0,
                last_step=k,
                learning_rate=rate,
                distillation=None,  # as theta_k, which level 0 reaches without a teacher
            )
            theta = given.train(dense).state("end")
        return ticket.replace(
            start=dataclasses.replace(theta, step=first, optimizer=None),
            first_step=first,
            last_step=given.history.train_steps,
            learning_rate=rate,
        )
