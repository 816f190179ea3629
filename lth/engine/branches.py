"""The step of every network of a cohort as parallel branches of one CUDA graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lth.dataset.augment import augment
from lth.dataset.task import Split
from lth.engine.batches import batch_key, drawn
from lth.engine.lockstep import Live
from lth.engine.network import Network
from lth.optimizer import base_rate
from lth.types import TrainState, Weights

CAPTURABLE = ("SGD", "Adam", "AdamW")
"""Optimizers whose fresh slots are zeros and whose fused kernels read the rate on the device."""
WARM_UP = 3
"""Steps before a capture: torch allocates and chooses kernels in them. They are undone."""


class Branches:
    """Networks whose updates are one replay (see ``Together``).

    What changes from step to step lies in tensors that are written before a
    replay: the rows and augmentation of each batch, and the learning rate. On
    the CPU, where there are no graphs, the same steps are computed one by one.
    """

    def __init__(self, lives: Sequence[Live], *, channels_last: bool) -> None:
        self._lives = lives
        self._device = lives[0].device
        self._learning_rate = lives[0].training.learning_rate
        layout = torch.channels_last if channels_last else torch.contiguous_format
        keys = [batch_key(live.training) for live in lives]
        sources = {k: _Source(v, layout) for k, v in zip(keys, lives, strict=True)}
        self._sources = list(sources.values())
        # One rate for all: networks that advance together have it in common.
        self._base_rate = base_rate(lives[0].training.optimizer)
        self._rate = torch.tensor(self._base_rate, device=self._device)
        self._branches = [
            _Branch(live, sources[key], self._rate) for key, live in zip(keys, lives, strict=True)
        ]
        for source in self._sources:
            source.load(lives[0].step)
        for _ in range(WARM_UP):
            self._step()
        for branch in self._branches:
            branch.undo()
        cuda = self._device.type == "cuda"
        self._replay = _captured(self._step, self._device) if cuda else self._step
        if cuda:
            # A capture computes nothing; what its recording has touched is put back all the same.
            for branch in self._branches:
                branch.undo()

    def _step(self) -> None:
        """Every source gathers; then every network updates, each on a stream of its own."""
        for source in self._sources:
            source.gather()
        for branch in self._branches:
            with branch.apart():
                branch.update()
        for branch in self._branches:
            branch.joined()

    def advance(self, stop: int) -> None:
        lives = self._lives
        for branch in self._branches:
            branch.network.module.train()
            branch.loss_sum.zero_()
        count = stop - lives[0].step
        for step in range(lives[0].step, stop):
            for source in self._sources:
                source.load(step)
            self._rate.fill_(self._base_rate * self._learning_rate(step))
            self._replay()
        for live, branch in zip(lives, self._branches, strict=True):
            live.step = stop
            live.loss_sum += branch.loss_sum
            live.loss_count += count

    def state(self, index: int, *, optimizer: bool) -> TrainState:
        return self._lives[index].network.state(self._lives[index].step, optimizer=optimizer)

    def evaluate(self, index: int, split: Split, state: TrainState | None) -> tuple[Tensor, Tensor]:
        return self._lives[index].network.evaluate(split, state)


class _Source:
    """The batches that some networks share: static rows, gathered inside the graph."""

    def __init__(self, live: Live, layout: torch.memory_format) -> None:
        self._training = live.training
        self._task = live.training.task
        self._device = live.device
        self._layout = layout
        self._epoch = -1
        self._drawn: tuple[Tensor, ...] = ()
        self._static: tuple[Tensor, ...] = ()
        self.x = self.y = torch.empty(0)

    def load(self, step: int) -> None:
        """Write the rows of a step's batch, and how they are augmented."""
        epoch, within = divmod(step, self._task.updates_per_epoch)
        if epoch != self._epoch:
            self._drawn = tuple(d.to(self._device) for d in drawn(self._training, epoch))
            self._epoch = epoch
        size = self._task.batch_size
        rows = [d[within * size : (within + 1) * size] for d in self._drawn]
        if not self._static:
            self._static = tuple(torch.empty_like(r) for r in rows)
        torch._foreach_copy_(self._static, rows)

    def gather(self) -> None:
        """Make the batch of the rows that were written."""
        order, *augmentation = self._static
        self.x, self.y = self._task.train.gather(order)
        if augmentation:
            top, left, mirrored = augmentation
            padding = self._task.crop
            self.x = augment(self.x, top=top, left=left, mirrored=mirrored, padding=padding)
        self.x = self.x.contiguous(memory_format=self._layout)


class _Branch:
    """One network: its update, its stream, and its values before anything was captured."""

    def __init__(self, live: Live, source: _Source, rate: Tensor) -> None:
        self.network: Network = live.network
        self._source = source
        self._training = live.training
        self._device = live.device
        self.network.load(live.start, live.mask)
        self.network.optimizer = _capturable(live.training.optimizer, self.network.module, rate)
        self._parameters = list(self.network.parameters.values())
        self._values = {**self.network.parameters, **self.network.buffers}
        self._before = {n: v.detach().clone() for n, v in self._values.items()}
        self._slots: Weights = live.start.optimizer or {}
        self.loss_sum = torch.zeros((), device=live.device)
        cuda = live.device.type == "cuda"
        self._stream = torch.cuda.Stream(live.device) if cuda else None  # type: ignore[no-untyped-call]
        self.network.module.train()

    def apart(self) -> AbstractContextManager[object]:
        """On a stream of its own, after all that the current one has been given."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._stream)

    def joined(self) -> None:
        """The current stream goes on after this network's."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def update(self) -> None:
        """Forward, backward, mask, clip, step, mask: what ``loop`` computes."""
        network, training = self.network, self._training
        with network.autocast():
            logits = network.module(self._source.x)
        loss = network.loss(logits, self._source.y, self._source.x)
        network.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if training.norm_l1 is not None:
            network.penalise_norms_(training.norm_l1)
        network.mask_gradients_()
        if training.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, training.grad_clip)
        network.optimizer.step()
        network.mask_weights_()
        self.loss_sum += loss.detach()

    @torch.no_grad()
    def undo(self) -> None:
        """Back to the values at the start, in the tensors that the graph knows."""
        for name, value in self._before.items():
            self._values[name].copy_(value)
        known: Mapping[Any, dict[str, Any]] = self.network.optimizer.state
        for slot in (s for state in known.values() for s in state.values()):
            if isinstance(slot, Tensor):
                slot.zero_()
        for key, value in self._slots.items():
            name, _, slot = key.rpartition("/")
            known[self.network.parameters[name]][slot].copy_(value)
        self.loss_sum.zero_()


def refused(optimizer: Callable[..., torch.optim.Optimizer]) -> str | None:
    """Why an optimizer cannot be captured, else None."""
    target: Any = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    given = optimizer.keywords if isinstance(optimizer, functools.partial) else {}
    if target.__name__ not in CAPTURABLE:
        return f"captures {', '.join(CAPTURABLE)}, not {target.__name__}"
    if given.get("foreach") or given.get("differentiable"):
        return "captures fused optimizers only"
    if given.get("dampening"):
        return "captures SGD without dampening only"
    return None


def _capturable(
    optimizer: Callable[..., torch.optim.Optimizer], module: nn.Module, rate: Tensor
) -> torch.optim.Optimizer:
    """Fused, with a learning rate that is read on the device."""
    built = optimizer(module.parameters(), lr=rate, fused=True)
    for group in built.param_groups:
        if "capturable" in group:
            group["capturable"] = rate.device.type == "cuda"
    return built


def _captured(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step as a graph; giving it again replays it."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize(device)
    with torch.cuda.graph(graph):
        step()
    return graph.replay
