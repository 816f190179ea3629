"""What pruning, rewinding and controls may look at: the states that training left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lth.mask import apply_state
from lth.store.stored import Stored
from lth.training import Training
from lth.types import Mask, TrainState

if TYPE_CHECKING:
    from lth.protocol import Grain


@dataclass(frozen=True, kw_only=True, eq=False)
class Lineage:
    """How a ticket's mask came about, for controls and finders whose mask comes about otherwise.

    ``parent`` is the Training that was pruned, ``dense`` that of level 0;
    ``cost`` counts the updates spent on the mask. ``train`` gives a Training's
    result with the state that is scored, and ``prune(training, history)`` the
    level's mask by the run's own criterion: ``training`` names the data,
    ``history`` what is scored. ``change`` (of the scores) and ``allocation``
    replace the run's.
    """

    parent: Training
    dense: Training
    cost: int
    train: Callable[[Training], Stored]
    prune: Callable[..., Mask]


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """The dense network's and the parent level's Trainings, read from the store when asked.

    ``rewind_step`` is k, ``train_steps`` is T, both in updates; ``prune_at`` is
    the state of the parent that is scored (``end``, ``early_stop`` or a step).
    ``layers`` are the types of all prunable layers; ``excluded`` those that are
    never pruned; ``grain`` the units that are pruned whole. ``narrowed`` is the mask
    that the scored state is seen under, where it is scored in several steps.
    ``updates_per_epoch`` counts steps written in epochs. Only controls and finders are
    told the ``lineage``.
    """

    dense: Stored
    parent: Stored
    rewind_step: int
    train_steps: int
    layers: Mapping[str, str]
    grain: Grain
    updates_per_epoch: int
    prune_at: str | int = "end"
    excluded: frozenset[str] = frozenset()
    narrowed: Mask | None = None
    told: Lineage | None = None
    _read: dict[tuple[str, str], TrainState] = field(default_factory=dict, repr=False)

    @property
    def initial(self) -> TrainState:
        """theta_0: the dense network at initialisation."""
        return self._state(self.dense, "start")

    @property
    def rewound(self) -> TrainState:
        """theta_k: the dense network at ``rewind_step``."""
        return self.initial if self.rewind_step == 0 else self.kept(self.rewind_step)

    @property
    def dense_end(self) -> TrainState:
        """The dense network when its training ended."""
        return self._state(self.dense, "end")

    @property
    def parent_start(self) -> TrainState:
        """What the parent level started from, masked."""
        return self._state(self.parent, "start")

    @property
    def parent_end(self) -> TrainState:
        """Where the parent level ended, masked."""
        return self._state(self.parent, "end")

    @property
    def scored(self) -> TrainState:
        """The parent's state that a criterion scores."""
        state = self._scored()
        return state if self.narrowed is None else apply_state(state, self.narrowed)

    def _scored(self) -> TrainState:
        if self.prune_at == "end":
            return self.parent_end
        if isinstance(self.prune_at, int) and self.prune_at == self.parent.done["first_step"]:
            return self.parent_start
        return self._state(self.parent, str(self.prune_at))

    @property
    def lineage(self) -> Lineage:
        """How the ticket's mask came about; RuntimeError where that was not told."""
        if self.told is None:
            raise RuntimeError("only controls and finders are told how the mask came about")
        return self.told

    @property
    def mask(self) -> Mask:
        """The parent's mask, its layers in the module's order (which breaks ties)."""
        mask = self.parent.mask()
        return {n: mask[n] for n in [*self.layers, *(m for m in mask if m not in self.layers)]}

    def under(self, mask: Mask) -> History:
        """The same history with the scored state under a sparser mask."""
        return replace(self, narrowed=mask)

    def prunable(self) -> dict[str, str]:
        """The types of the layers that pruning may touch."""
        return {n: kind for n, kind in self.layers.items() if n not in self.excluded}

    def kept(self, step: int) -> TrainState:
        """The dense network at ``step``; KeyError where that state was not kept."""
        return self._state(self.dense, str(step))

    def watched(self, name: str) -> TrainState:
        """What an event kept, under its name, of the parent's training."""
        return self._state(self.parent, name)

    def of_dense(self) -> History:
        """The same history with the dense network as the parent."""
        return History(
            dense=self.dense,
            parent=self.dense,
            rewind_step=self.rewind_step,
            train_steps=self.train_steps,
            layers=self.layers,
            grain=self.grain,
            updates_per_epoch=self.updates_per_epoch,
            prune_at=self.prune_at,
            excluded=self.excluded,
            told=self.told,
        )

    def _state(self, stored: Stored, when: str) -> TrainState:
        key = (stored.id, when)
        if key not in self._read:
            self._read[key] = stored.state(when)
        return self._read[key]
