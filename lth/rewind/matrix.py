"""Rewinding: what survivors go back to, as one matrix of independent choices."""

from __future__ import annotations

from dataclasses import dataclass

from lth.history import History
from lth.option import one_of
from lth.protocol import Restart
from lth.step import Step
from lth.types import TrainState

_CHOICES = {
    "weights": ("initial", "rewound", "final"),
    "schedule": ("restart", "continue", "hold"),
    "optimizer": ("fresh", "saved"),
    "statistics": ("same", "other"),
}


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One cell of the rewinding matrix; the named protocols are rows of it.

    | protocol        | weights | schedule | updates | source |
    |-----------------|---------|----------|---------|--------|
    | ``weights``     | rewound | continue | T - k   | Frankle et al. 2020 |
    | ``learning_rate`` | final | continue | T - k   | Renda et al. 2020 |
    | ``finetune``    | final   | hold     | t       | Han et al. 2015 |
    | ``low_lr``      | rewound | hold     | T - k   | Renda et al. 2020 |

    ``weights``: ``initial`` theta_0, ``rewound`` theta_k, ``final`` the parent's
    end. ``schedule``: ``restart`` at step 0, ``continue`` at k, ``hold`` the value
    of the last update, T - 1. ``updates``: their number as a step; None is T
    where the schedule restarts and T - k where not. ``optimizer``: ``fresh``, or
    the slots ``saved`` with theta_k. ``statistics``: the buffers (BatchNorm mean,
    variance, count) of the ``same`` state as the weights, or of the ``other``:
    the parent's end for initial and rewound weights, theta_k for final ones.
    """

    weights: str = "rewound"
    schedule: str = "continue"
    updates: Step | str | None = None
    optimizer: str = "fresh"
    statistics: str = "same"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        if self.updates is not None:
            try:
                object.__setattr__(self, "updates", Step.parse(self.updates))
            except ValueError as error:
                raise ValueError(f"updates: {error}") from None
            if self.updates == Step():
                raise ValueError("updates: got 0it, allowed: 1it or more")

    def span(
        self, *, rewind_step: int, train_steps: int, updates_per_epoch: int
    ) -> tuple[int, int]:
        """The first and the last absolute step.

        Raises ValueError where the span would outrun the schedule: only a held
        one may make more updates than it has left.
        """
        first = 0 if self.schedule == "restart" else rewind_step
        left = train_steps - first
        if not isinstance(self.updates, Step):
            return first, train_steps
        updates = self.updates.updates(updates_per_epoch)
        if self.schedule != "hold" and updates > left:
            raise ValueError(
                f"updates: got {self.updates}, allowed: 1it to {left}it "
                "(what the schedule has left)"
            )
        return first, first + updates

    def __call__(self, history: History) -> Restart:
        """Where training begins; the state is not masked yet.

        Raises ValueError where ``saved`` slots are asked for and theta_k has none.
        """
        theta = {
            "initial": lambda: history.initial,
            "rewound": lambda: history.rewound,
            "final": lambda: history.parent_end,
        }[self.weights]()
        buffers = theta.buffers
        if self.statistics == "other":
            other = history.rewound if self.weights == "final" else history.parent_end
            buffers = other.buffers
        optimizer = history.rewound.optimizer if self.optimizer == "saved" else None
        if self.optimizer == "saved" and optimizer is None:
            raise ValueError(
                f"optimizer: got 'saved', allowed: fresh (the state at step {history.rewind_step} "
                "was kept without its slots)"
            )
        first, last = self.span(
            rewind_step=history.rewind_step,
            train_steps=history.train_steps,
            updates_per_epoch=history.updates_per_epoch,
        )
        return Restart(
            state=TrainState(
                step=first,
                weights=theta.weights,
                buffers=buffers,
                optimizer=optimizer,
            ),
            first_step=first,
            last_step=last,
            hold=self.schedule == "hold",
        )
