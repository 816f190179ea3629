"""The engine for multilayer perceptrons on the CPU: cohorts, and sparse products where they pay."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lth.engine.mlp_live import Live, Together
from lth.protocol import Change, Event, Record, Result, Resume, Stop, last_look
from lth.runtime import Runtime
from lth.spec import canonical, spec
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Trains Linear-ReLU networks by hand-written forward and backward passes.

    The survivors of a cohort are one vector for the optimizer; networks that
    see the same data share its gathering; a layer whose density is at most
    ``sparse_below`` is computed by sparse products, else by dense ones. A
    Training's numbers do not depend on who shares its cohort. Up to ``cohort``
    Trainings advance together. Refused: other networks, devices and precisions.
    """

    sparse_below: float = 0.25
    cohort: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.sparse_below <= 1:
            raise ValueError(f"sparse_below: got {self.sparse_below}, allowed: 0 to 1 (a density)")
        if self.cohort < 1:
            raise ValueError(f"cohort: got {self.cohort}, allowed: 1 or more")

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours, at most ``cohort`` of them."""
        return [cohort[i : i + self.cohort] for i in range(0, len(cohort), self.cohort)]

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, and the precision."""
        return {
            "engine": "mlp",
            "sparse_below": self.sparse_below,
            "precision": training.precision,
            **runtime.numerics(),
        }

    def refusal(self, training: Training, runtime: Runtime) -> str | None:
        """Why this engine cannot train it, or None where it can."""
        return refusal(training, runtime)

    def train(
        self,
        group: Sequence[Training],
        *,
        events: Callable[[Training], Sequence[Event]],
        resume: Callable[[Training], Resume | None],
        runtime: Runtime,
    ) -> Iterator[Result]:
        """Yield the result of each Training when those that advance together have ended.

        ValueError names what this engine cannot do.
        """
        for training in group:
            reason = refusal(training, runtime)
            if reason is not None:
                raise ValueError(f"engine: got mlp, which {reason}, allowed: loop")
        lives = [Live(t, resume(t), events(t)) for t in group]
        alike: dict[str, list[Live]] = {}
        for live in lives:
            alike.setdefault(_signature(live), []).append(live)
        for members in alike.values():
            with runtime.active("fp32"):
                _run(members, self.sparse_below)
            for live in members:
                numerics = self.numerics(runtime, live.training)
                yield Result(
                    training=live.training,
                    end=live.state(),
                    mask=live.mask,
                    record=live.record,
                    numerics=numerics,
                )


def _signature(live: Live) -> str:
    """Networks that can advance together have this in common."""
    training = live.training
    counters = sorted({float(v) for v in (live.start.optimizer or {}).values() if v.ndim == 0})
    known = sorted({k.rpartition("/")[2] for k in live.start.optimizer or {}})
    return canonical(
        [
            live.step,
            training.last_step,
            spec(training.learning_rate),
            spec(training.optimizer),
            counters,
            known,
        ]
    )


def refusal(training: Training, runtime: Runtime) -> str | None:
    """Why this engine cannot train it, or None where it can."""
    if runtime.torch_device.type != "cpu":
        return f"has no kernels for {runtime.torch_device.type}"
    if training.precision != "fp32":
        return f"computes in fp32, not in {training.precision}"
    if training.norm_l1 is not None:
        return "penalises no norms"
    task = training.task
    name = _other_network(training.model, tuple(task.input_shape), task.num_classes)
    return None if name is None else f"trains Linear-ReLU networks, not {name}"


@functools.lru_cache(maxsize=64)
def _other_network(
    model: Callable[..., nn.Module], input_shape: tuple[int, ...], num_classes: int
) -> str | None:
    """The name of a network that is no perceptron, else None. Asked often, built once."""
    with torch.random.fork_rng(devices=[]):
        module = model(input_shape=input_shape, num_classes=num_classes)
    return type(module).__name__ if linears(module) is None else None


def linears(module: nn.Module) -> list[tuple[str, nn.Linear]] | None:
    """The Linear layers of a Linear-ReLU-...-Linear network in their order, else None."""
    leaves = [(n, m) for n, m in module.named_modules() if not list(m.children())]
    body = [(n, m) for n, m in leaves if not isinstance(m, nn.Flatten | nn.Identity)]
    kinds = [type(m) for _, m in body]
    if not body or kinds != [nn.Linear, nn.ReLU] * (len(body) // 2) + [nn.Linear]:
        return None
    inner = [m for m in module.modules() if list(m.children())]
    if any(getattr(type(m), "forward", None) is not nn.Sequential.forward for m in inner):
        return None  # a forward of its own could do anything
    own = {f"{n}.{p}" for n, m in body for p, _ in m.named_parameters()}
    if own != {n for n, _ in module.named_parameters()}:
        return None
    return [(n, m) for n, m in body if isinstance(m, nn.Linear)]


def _run(members: Sequence[Live], sparse_below: float) -> None:
    """Advance from event to event; a network that stops leaves the others."""
    active = list(members)
    together = Together(active, sparse_below)
    due = {id(live): live.due() for live in active}
    stops = sorted(set().union(*(set().union(*d.values()) for d in due.values())))
    last = active[0].training.last_step
    for stop in (s for s in sorted({*stops, last}) if s <= last):
        began = time.perf_counter()
        together.advance(stop)
        share = (time.perf_counter() - began) / len(active)
        changed: dict[int, Change] = {}
        ended = []
        for index, live in enumerate(active):
            began = time.perf_counter()
            live.record.seconds += share
            stopped = _happen(live, stop, due[id(live)], index, changed)
            live.record.seconds += time.perf_counter() - began
            if stopped:
                ended.append(live)
        if ended or changed:
            states = [live.state(optimizer=True) for live in active]
            for index, live in enumerate(active):
                live.pause(states[index], changed.get(index))
            active = [live for live in active if live not in ended]
            if not active:
                return
            together = Together(active, sparse_below)
    for live in active:
        if live.record.status == "running":
            live.record.status = "done"
        live.pause(live.state(optimizer=True), None)


def _happen(
    live: Live,
    step: int,
    due: Mapping[int, set[int]],
    index: int,
    changed: dict[int, Change],
) -> bool:
    """The events of one network at one step; True where one of them stopped it."""
    if live.resumed_at == step:
        return False  # a checkpoint is written last at its step, so these happened already
    record: Record = live.record
    for event in live.events:
        if step not in due[id(event)]:
            continue
        outcome = event(live, record)
        if isinstance(outcome, Change):
            if not any(event is own for own in live.training.events):
                raise ValueError(
                    f"{type(event).__name__} changes the training, so it belongs into its events"
                )
            changed[index] = outcome
            live.look_at(outcome)
        if isinstance(outcome, Stop):
            if record.status == "running":
                record.status = "stopped"
                for other in live.events:
                    last_look(other, live, record)
            return True
    return False
