"""The reference engine: one visible training loop, one network after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lth.dataset.task import Split
from lth.engine.batches import Batches
from lth.engine.network import Network
from lth.protocol import Change, Event, Record, Result, Resume, Stop, last_look
from lth.runtime import Runtime
from lth.stream import seed_of
from lth.training import Training
from lth.types import Mask, TrainState, Weights


@dataclass(frozen=True, kw_only=True)
class Loop:
    """Trains a cohort one network at a time.

    Each update: forward, backward, penalise norms (where the Training says so),
    mask the gradients, clip, step, mask the weights. ``compile`` runs forward and
    backward through torch.compile; ``channels_last`` lays images and convolutions
    out that way.
    """

    compile: bool = False
    channels_last: bool = False

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Every network is trained alone, so any one can be recomputed alone."""
        return [[training] for training in cohort]

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, and the precision."""
        return {
            "engine": "loop",
            "compile": self.compile,
            "channels_last": self.channels_last,
            "precision": training.precision,
            **runtime.numerics(),
        }

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        """Yield the result of each Training as it ends."""
        for training in group:
            with alone(training, runtime):
                live = Live(
                    training,
                    runtime.torch_device,
                    compile=self.compile,
                    channels_last=self.channels_last,
                )
                record = live.run(events(training), resume(training))
                result = live.result(record, self.numerics(runtime, training))
            # Outside, so that the caller works with its own generator, threads and flags.
            yield result


@contextmanager
def alone(training: Training, runtime: Runtime) -> Iterator[None]:
    """Threads, flags and the global generator, which modules may draw from, for a Training."""
    cuda = [runtime.torch_device] if runtime.torch_device.type == "cuda" else []
    with runtime.active(training.precision), torch.random.fork_rng(devices=cuda):
        yield


class Live:
    """One Training under way; a ``Moment`` to its events."""

    def __init__(
        self,
        training: Training,
        device: torch.device,
        *,
        compile: bool = False,
        channels_last: bool = False,
    ) -> None:
        self.training = training
        self.step = training.first_step
        self._network = Network(training, device, channels_last=channels_last)
        self._forward: Callable[[Tensor], Tensor] = self._network.module
        if compile:
            self._forward = torch.compile(self._network.module)
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._batches = Batches(training, device)
        self._loss_sum = torch.zeros((), device=device)
        self._loss_count = 0

    def run(self, observers: Sequence[Event], resume: Resume | None) -> Record:
        """Advance from event to event until the last step or a Stop."""
        training, record = self.training, Record()
        self._load(training.start, training.mask)
        if resume is not None:
            record = resume.record
            self.step = resume.state.step
            self._load(resume.state, resume.mask)
            self._loss_sum.fill_(resume.pending_loss[0])
            self._loss_count = resume.pending_loss[1]
        began = time.perf_counter() - record.seconds
        events = [*training.events, *observers]
        due = {id(e): set(e.steps(training)) for e in events}
        stops = sorted(set().union(*due.values(), {training.last_step}))
        # A checkpoint is written last at its step, so on resuming that step's events are done.
        start = self.step if resume is None else self.step + 1
        for stop in (s for s in stops if start <= s <= training.last_step):
            self._advance(stop)
            record.seconds = time.perf_counter() - began
            for event in events:
                if self.step in due[id(event)] and self._happen(event, record):
                    if record.status == "running":
                        record.status = "stopped"
                        for last in events:
                            last_look(last, self, record)
                    return record
        record.status = "done"
        return record

    def result(self, record: Record, numerics: dict[str, Any]) -> Result:
        """What has become of the Training."""
        return Result(
            training=self.training,
            end=self.state(),
            mask=self.mask,
            record=record,
            numerics=numerics,
        )

    def _load(self, state: TrainState, mask: Mask) -> None:
        self._network.load(state, mask)

    def _advance(self, stop: int) -> None:
        training, network = self.training, self._network
        module_key = training.streams["module"]
        weights = list(network.parameters.values())
        network.module.train()
        for step in range(self.step, stop):
            network.seed_(seed_of(*module_key, step))
            network.set_rate(training.learning_rate(step))
            loss = self._loss(step)
            if training.norm_l1 is not None:
                network.penalise_norms_(training.norm_l1)
            network.mask_gradients_()
            if training.grad_clip is not None:
                nn.utils.clip_grad_norm_(weights, training.grad_clip)
            network.optimizer.step()
            network.mask_weights_()
            network.optimizer.zero_grad()
            self._loss_sum += loss
            self._loss_count += 1
        self.step = stop

    def _loss(self, step: int) -> Tensor:
        """The loss of the batch of an update; its gradients are left with the parameters."""
        return self._backward(*self._batches(step))

    def _backward(self, x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
        """Add the gradients of the loss, times ``share``, to the parameters'; gives that loss."""
        network = self._network
        with network.autocast():
            logits = self._forward(x.contiguous(memory_format=self._layout))
        loss = network.loss(logits, y, x)
        if share != 1.0:
            loss = loss * share
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _happen(self, event: Event, record: Record) -> bool:
        outcome = event(self, record)
        if isinstance(outcome, Change):
            # By identity: an equal event among the observers would act a second time.
            if not any(event is own for own in self.training.events):
                raise ValueError(
                    f"{type(event).__name__} changes the training, so it belongs into its events"
                )
            self._load(outcome.state, outcome.mask)
        return isinstance(outcome, Stop)

    # What an event sees.

    @property
    def mask(self) -> Mask:
        return self._network.mask

    def state(self, *, optimizer: bool = False) -> TrainState:
        return self._network.state(self.step, optimizer=optimizer)

    def evaluate(self, split: Split, state: TrainState | None = None) -> tuple[Tensor, Tensor]:
        return self._network.evaluate(split, state)

    def pending_loss(self) -> tuple[float, int]:
        return float(self._loss_sum), self._loss_count

    def batch_loss(self) -> float:
        mean = float(self._loss_sum) / self._loss_count if self._loss_count else float("nan")
        self._loss_sum.zero_()
        self._loss_count = 0
        return mean

    def gradient(self) -> Weights:
        x, y = self._batches(self.step)
        return self._network.gradient(x, y, seed_of(*self.training.streams["module"], self.step))

    def module(self) -> nn.Module:
        return self._network.module
