"""What one level keeps: its parent's weights are scored, and the level's budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lth import mask as masks
from lth.dataset.task import Task
from lth.engine.batches import Batches
from lth.history import History
from lth.protocol import Allocation, Criterion, Grain, Schedule
from lth.stream import Key, generator, seed_of
from lth.training import Training, build_model
from lth.types import Mask, Scores, TrainState


class CriterionError(Exception):
    """A criterion cannot score what it was given; the message names its option."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruner:
    """Scores by ``criterion``, makes units of it by ``grain``, and spends by ``allocation``.

    ``schedule`` says how much a level prunes, ``score_steps`` in how many goes.
    ``control_seed(seed)`` is the seed of what the criterion draws.
    """

    model: Callable[..., nn.Module]
    criterion: Criterion
    allocation: Allocation
    schedule: Schedule
    grain: Grain
    score_steps: int
    control_seed: Callable[[int], int]

    def prune(
        self,
        history: History,
        parent: Training,
        seed: int,
        level: int,
        *,
        change: Callable[[Scores], Scores] = lambda scores: scores,
    ) -> Mask:
        """The mask of ``level``, nested in its parent's; ``change`` is done to the units' scores.

        Excluded layers stay whole and count as kept. Raises ValueError where a
        target density cannot be reached.
        """
        mask = history.mask
        free = self._free(mask)
        device = getattr(parent.task.train.labels, "device", torch.device("cpu"))
        draws = Batches(parent, device)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            return (draws(step) for step in range(parent.task.updates_per_epoch))

        def score(history: History, free: Mask, step: int) -> Scores:
            key: Key = ("criterion", self.control_seed(seed), level)
            key = (*key, step) if step else key
            try:
                with _modules_draw_from((*key, "module"), device):
                    scores = self.criterion(
                        history,
                        free,
                        forward=self.forward(parent.task),
                        batches=batches,
                        generator=generator(*key),
                    )
            except ValueError as error:
                raise CriterionError(f"criterion.{error}") from None
            return change(self.grain.score(scores, {**history.mask, **free}))

        whole = self.allocate_units(score(history, free, 0), mask, level)
        if self.score_steps == 1:
            return whole
        return self._in_steps(score, history, whole, level)

    def forward(self, task: Task) -> Callable[[TrainState, Tensor], Tensor]:
        """Runs the network in a given state; see ``Criterion``."""
        module = build_model(self.model, task, generator("forward"))

        def forward(state: TrainState, x: Tensor, *, train: bool = True) -> Tensor:
            module.to(x.device).train(train)
            # BatchNorm in train mode writes to its buffers, which are not ours to change.
            values = {**state.weights, **{n: b.clone() for n, b in state.buffers.items()}}
            moved = {n: v.to(x.device) for n, v in values.items()}
            # Of all kernels of attention only this one can be differentiated twice.
            with sdpa_kernel(SDPBackend.MATH):
                output: Tensor = torch.func.functional_call(module, moved, (x,))
            return output

        return forward

    def _free(self, mask: Mask) -> dict[str, Tensor]:
        """The layers whose weights are scored."""
        return {n: m for n, m in mask.items() if n in self.grain.scored}

    def _in_steps(
        self,
        score: Callable[[History, Mask, int], Scores],
        history: History,
        whole: Mask,
        level: int,
    ) -> Mask:
        """Score and prune ``score_steps`` times, counts falling exponentially to the budget's.

        The last step spends the level's own budget; what went before goes first.
        """
        grain, mask = self.grain, history.mask
        parent = grain.alive(mask)
        start, end = masks.remaining(parent), masks.remaining(grain.alive(whole))

        def seen(left: Mask, step: int) -> Scores:
            return score(history.under(left), self._free(left), step)

        rate = self.schedule(level).rate  # only the layers' proportions depend on it here
        left: Mask = dict(mask)
        for step in range(1, self.score_steps):
            keep = round(start * (end / start) ** (step / self.score_steps))
            scores, alive = seen(left, step), grain.alive(left)
            left = grain.expand(self._spend(scores, alive, rate, 1, keep), mask)
        alive = grain.alive(left)
        gone = {
            n: torch.where(alive[n], s, s.new_tensor(-torch.inf))
            for n, s in seen(left, self.score_steps).items()
        }
        return self.allocate_units(gone, mask, level)

    def _spend(
        self, scores: Scores, alive: Mask, rate: float, times: int, keep: int | None
    ) -> Mask:
        """Allocate among units."""
        grain = self.grain
        layers = {n: grain.layers[n] for n in alive}
        spending = grain.spending(self.allocation)
        return spending(scores, alive, layers=layers, rate=rate, times=times, keep=keep)

    def allocate(self, scores: Scores, mask: Mask, level: int) -> dict[str, Tensor]:
        """Spend the level's budget: the child mask of ``mask``. See ``prune``."""
        return self.allocate_units(self.grain.score(scores, mask), mask, level)

    def allocate_units(self, scores: Scores, mask: Mask, level: int) -> dict[str, Tensor]:
        """The same for scores of units."""
        grain, pruning = self.grain, self.schedule(level)
        keep = None
        if pruning.density is not None:
            if grain.weights_per_unit is None:
                raise ValueError(
                    f"densities: got {pruning.density}, allowed: a schedule of rates (the units of "
                    "this granularity do not all have as many weights)"
                )
            every = masks.prunable(mask)
            free = self._free(mask)
            fixed = masks.size(every) - masks.size(free)
            keep = round(pruning.density * masks.size(every)) - fixed
            if not 0 <= keep <= masks.remaining(free):
                raise ValueError(
                    f"densities: got {pruning.density}, allowed: {fixed / masks.size(every):.4g} "
                    f"(the excluded layers) to {masks.density(mask):.4g}"
                )
            keep = round(keep / grain.weights_per_unit)
        pruned = self._spend(scores, grain.alive(mask), pruning.rate, pruning.times, keep)
        child = dict(grain.expand(pruned, mask))
        assert masks.nested(child, mask)
        return child


@contextmanager
def _modules_draw_from(key: Key, device: torch.device) -> Iterator[None]:
    """Seed the global generator, which dropout draws from in train mode, and put it back."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed_of(*key))
        if cuda:
            torch.cuda.manual_seed(seed_of(*key))
        yield
