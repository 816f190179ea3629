"""A Training: a ticket together with all that decides its outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from lth import mask as masks
from lth.dataset.task import Task
from lth.distillation import Distillation
from lth.fill import held
from lth.layer import kinds
from lth.option import one_of
from lth.spec import Json, content_id, spec, state_digest, tensor_digest
from lth.stream import Key, generator
from lth.types import Mask, TrainState, Weights

STORE_VERSION = 1
"""Enters every id. A change of numerics or of what a stored value means bumps it."""

PRECISIONS = ("fp32", "tf32", "bf16")


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """The multiplier of the optimizer's base rate at each absolute step.

    ``shape(step, total)``, times ``(step + 1) / warmup`` during the first
    ``warmup`` steps (linear warm-up). ``hold`` gives every step the value of
    the last one, ``total - 1`` (fine-tuning, low-rate rewinding).
    """

    shape: Callable[[int, int], float]
    total: int
    warmup: int = 0
    hold: bool = False

    def __call__(self, step: int) -> float:
        if self.hold:
            step = self.total - 1
        scale = (step + 1) / self.warmup if step < self.warmup else 1.0
        return scale * self.shape(step, self.total)


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """Everything that determines a result, and nothing else; ``id`` is its hash.

    ``model(input_shape=..., num_classes=...)`` builds a plain module.
    ``optimizer(params)`` builds an elementwise torch.optim optimizer. Updates
    run from ``first_step`` to ``last_step`` in absolute numbering, which fixes
    the learning rate, the batch and the evaluation grid of each. ``streams``
    maps ``order``, ``augment`` and ``module`` to stream keys. ``eval_every``
    (updates) is the grid on which early stopping is read. ``events`` may change
    mask and state during the training; events that only watch are passed to
    the engine instead. ``grad_clip`` bounds the global norm of the masked
    gradient. ``fill`` is what pruned weights hold at every step, by the name of
    their layer (None: zeros); their gradient and optimizer slots are 0 all the same.
    ``distillation`` puts a teacher into the loss.
    ``norm_l1`` adds ``norm_l1 * sum(abs(w))`` over the weights of all BatchNorms to what is
    minimised (not to the losses that are recorded).
    """

    task: Task
    model: Callable[..., nn.Module]
    mask: Mask
    start: TrainState
    last_step: int
    optimizer: Callable[..., torch.optim.Optimizer]
    learning_rate: LearningRate
    streams: Mapping[str, Key]
    eval_every: int
    first_step: int = 0
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    norm_l1: float | None = None
    precision: str = "fp32"
    events: tuple[Any, ...] = field(default=())
    fill: Weights | None = None
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.first_step <= self.last_step:
            raise ValueError(
                f"last_step: got {self.last_step}, allowed: {self.first_step} (first_step) or more"
            )
        if self.eval_every < 1:
            raise ValueError(f"eval_every: got {self.eval_every}, allowed: 1 update or more")
        one_of("precision", self.precision, PRECISIONS)
        if self.norm_l1 is not None and not self.norm_l1 > 0:
            raise ValueError(f"norm_l1: got {self.norm_l1}, allowed: null or above 0")
        missing = {"order", "augment", "module"} - self.streams.keys()
        if missing:
            raise ValueError(f"streams: no key for {', '.join(sorted(missing))}")
        self._check_fill()
        # Stored states hold exact zeros where the mask is False, and so must this one.
        start = masks.apply_state(self.start, self.mask, self.filled)
        object.__setattr__(self, "start", start)

    def _check_fill(self) -> None:
        if self.fill is None:
            return
        for name, value in self.fill.items():
            if name not in self.mask or self.mask[name].shape != value.shape:
                shapes = ", ".join(f"{n} {tuple(m.shape)}" for n, m in self.mask.items())
                raise ValueError(f"fill: got {name} {tuple(value.shape)}, allowed: {shapes}")
        if self.events:
            raise ValueError("fill: got values, allowed: none where events change the mask")

    @cached_property
    def filled(self) -> Weights | None:
        """What pruned weights hold that is not 0, with zeros at survivors; None where nothing."""
        return (held(self.fill, self.mask) or None) if self.fill is not None else None

    @property
    def updates(self) -> int:
        """How many optimiser updates this Training makes."""
        return self.last_step - self.first_step

    def grid(self) -> list[int]:
        """The evaluation steps: multiples of ``eval_every``, the first and the last step."""
        first, last, every = self.first_step, self.last_step, self.eval_every
        inner = range(first + every - first % every, last, every)
        return sorted({first, *inner, last})

    @cached_property
    def spec(self) -> Json:
        """The canonical JSON that ``id`` hashes."""
        fill = {} if self.filled is None else {"fill": tensor_digest(self.filled)}
        # Left out where there is none, so that it changes no other Training's id.
        taught = {} if self.distillation is None else {"distillation": self.distillation.spec}
        return {
            "version": STORE_VERSION,
            "task": dict(self.task.spec),
            "model": spec(self.model),
            "mask": tensor_digest(self.mask),
            "start": state_digest(self.start),
            "first_step": self.first_step,
            "last_step": self.last_step,
            "learning_rate": spec(self.learning_rate),
            "optimizer": spec(self.optimizer),
            "streams": {name: list(key) for name, key in self.streams.items()},
            "eval_every": self.eval_every,
            "label_smoothing": spec(self.label_smoothing),
            "grad_clip": spec(self.grad_clip),
            "precision": self.precision,
            "events": [spec(e) for e in self.events],
            **fill,
            **taught,
            **({} if self.norm_l1 is None else {"norm_l1": self.norm_l1}),
        }

    @cached_property
    def id(self) -> str:
        """SHA-256 of the canonical spec; the Training's name in the store."""
        return content_id(self.spec)

    def replace(self, **changes: Any) -> Training:
        """A copy with some fields changed (and an id of its own)."""
        return dataclasses.replace(self, **changes)


def build_model(model: Callable[..., nn.Module], task: Task, stream: torch.Generator) -> nn.Module:
    """Construct the module; parameters that no initialisation covers are drawn from ``stream``.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=stream)))
        return model(input_shape=task.input_shape, num_classes=task.num_classes)


def initial_state(
    model: Callable[..., nn.Module],
    task: Task,
    init: Callable[..., None],
    stream: torch.Generator,
) -> TrainState:
    """theta_0: a fresh network at step 0, drawn from ``stream`` alone."""
    module = build_model(model, task, stream)
    init(module, generator=stream)
    return state_of(module, step=0)


def streams(seed: int, level: int = 0, **own: int) -> dict[str, Key]:
    """The stream keys of a level: data order, augmentation, and noise inside modules.

    ``own`` gives single streams a seed of their own.
    """
    return {n: (n, own.get(n, seed), level) for n in ("order", "augment", "module")}


def dense(
    *,
    task: Task,
    model: Callable[..., nn.Module],
    init: Callable[..., None],
    optimizer: Callable[..., torch.optim.Optimizer],
    learning_rate: LearningRate,
    seed: int,
    eval_every: int,
    **options: Any,
) -> Training:
    """Level 0: the whole network from a fresh theta_0, for all of the schedule's updates."""
    start = initial_state(model, task, init, generator("init", seed))
    names = kinds(build_model(model, task, generator("layers")))
    return Training(
        **{
            "task": task,
            "model": model,
            "mask": masks.full(start.weights, names),
            "start": start,
            "last_step": learning_rate.total,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "streams": streams(seed),
            "eval_every": eval_every,
            **options,
        }
    )


def state_of(module: nn.Module, *, step: int) -> TrainState:
    """A copy of a module's parameters and buffers on the CPU."""
    return TrainState(
        step=step,
        weights={n: p.detach().cpu().clone() for n, p in module.named_parameters()},
        buffers={n: b.detach().cpu().clone() for n, b in module.named_buffers()},
    )
