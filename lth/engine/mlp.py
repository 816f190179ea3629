"""The engine for multilayer perceptrons on the CPU: cohorts, and sparse products where they pay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lth.engine import lockstep
from lth.engine.batches import batch_key
from lth.engine.break_even import MEASURED, BreakEvens
from lth.engine.perceptrons import Perceptrons
from lth.option import at_least
from lth.protocol import Event, Result, Resume
from lth.runtime import Runtime
from lth.spec import Json
from lth.training import Training

CACHED = 300_000
"""Values that advance together: with gradient and Adam's slots 16 bytes each, some 5 MB.

More of them are slower than one after another, because every update walks all of them.
"""


Recall: TypeAlias = Callable[[Sequence[tuple[int, int, int]]], Mapping[str, float]]
"""The break-evens, by name, of layers given as (rows, columns, batch)."""


@dataclass(frozen=True, kw_only=True)
class MLP:
    """Trains Linear-ReLU networks by hand-written forward and backward passes.

    The survivors of a cohort are one vector for the optimizer. Inputs and units
    that cannot matter are left out (``living``); a layer whose density between the
    others is at most ``sparse_below`` is computed by sparse products, else by dense
    ones. Sparse layers of a cohort are one product: its networks see the same data.
    A Training's numbers do not depend on who shares its cohort. Up to ``cohort``
    Trainings of a seed advance together, fewer where they are dense. Refused: other
    networks, devices and precisions.

    With ``sparse_below=measured`` each layer has its own break-even, which a run
    measures once (``tuned``) and its store remembers.
    """

    sparse_below: float | str | BreakEvens = 0.3
    cohort: int = 6

    def __post_init__(self) -> None:
        check_sparse_below(self.sparse_below)
        at_least("cohort", self.cohort, 1)

    def tuned(self, training: Training, runtime: Runtime, recall: Recall) -> MLP:
        """Itself with the break-evens of a Training's layers, as ``recall`` knows them."""
        if self.sparse_below != MEASURED:
            return self
        return replace(self, sparse_below=BreakEvens(recall(_sizes(training))))

    def repeating(self, numerics: Mapping[str, Any]) -> MLP:
        """Itself with the break-evens that a Training was computed with, by its numerics."""
        then = numerics.get("sparse_below", self.sparse_below)
        return replace(self, sparse_below=BreakEvens(then) if isinstance(then, Mapping) else then)

    def below(self, shape: Sequence[int], batch: int) -> float:
        """The density at or below which a layer goes through sparse products."""
        if isinstance(self.sparse_below, BreakEvens):
            rows, columns = shape
            return self.sparse_below.of(rows, columns, batch)
        if isinstance(self.sparse_below, str):
            raise ValueError(
                "sparse_below: got measured, which nothing was, allowed: tuned() first"
            )
        return self.sparse_below

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours, at most ``cohort`` of them."""
        return lockstep.batched(cohort, self.cohort)

    def numerics(self, runtime: Runtime, training: Training) -> dict[str, Any]:
        """The runtime's and this engine's choices, and the precision."""
        return {
            "engine": "mlp",
            "sparse_below": _plain(self.sparse_below),
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
        """See ``lockstep.train``."""
        return lockstep.train(
            self,
            group,
            events=events,
            resume=resume,
            runtime=runtime,
            gather=lambda training: partial(
                Perceptrons, below=partial(self.below, batch=training.task.batch_size)
            ),
            in_common=_in_common,
            parts=self._parts,
        )

    def _parts(self, lives: Sequence[lockstep.Live]) -> list[list[lockstep.Live]]:
        """Neighbours that see the same data, whose values fit the cache together.

        At most ``cohort`` of them. Batches of several seeds would only drive each other out.
        """
        parts: list[list[lockstep.Live]] = [[]]
        size, data = 0, None
        for live in lives:
            own = sum(self._held(m, live.training.task.batch_size) for m in live.mask.values())
            before, data = data, batch_key(live.training)
            full = len(parts[-1]) == self.cohort or size + own > CACHED
            if parts[-1] and (full or data != before):
                parts.append([])
                size = 0
            parts[-1].append(live)
            size += own
        return parts

    def _held(self, kept: Tensor, batch: int) -> int:
        """About how many values of a parameter its network holds."""
        survivors, whole = int(kept.sum()), kept.numel()
        sparse = kept.ndim == 2 and survivors <= self.below(kept.shape, batch) * whole
        return survivors if sparse else whole


def check_sparse_below(given: float | str | BreakEvens) -> None:
    """ValueError for what is neither a density nor ``measured``."""
    if given == MEASURED or isinstance(given, BreakEvens):
        return
    if not (isinstance(given, int | float) and 0 <= given <= 1):
        allowed = f"0 to 1 (a density) or {MEASURED}"
        raise ValueError(f"sparse_below: got {given}, allowed: {allowed}")


def _plain(given: float | str | BreakEvens) -> Json:
    return dict(given.densities) if isinstance(given, BreakEvens) else given


def _sizes(training: Training) -> list[tuple[int, int, int]]:
    """Rows, columns and batch of each layer that may get sparse."""
    shapes = {(m.shape[0], m.shape[1]) for m in training.mask.values() if m.ndim == 2}
    return [(rows, columns, training.task.batch_size) for rows, columns in sorted(shapes)]


def _in_common(training: Training) -> Json:
    """The depth, how many outputs there are, and what the loss is."""
    layers = [w for n, w in training.start.weights.items() if n.rpartition(".")[2] == "weight"]
    return [len(layers), len(layers[-1]), training.label_smoothing]


def refusal(training: Training, runtime: Runtime) -> str | None:
    """Why this engine cannot train it, or None where it can."""
    if runtime.torch_device.type != "cpu":
        return f"has no kernels for {runtime.torch_device.type}"
    if training.precision != "fp32":
        return f"computes in fp32, not in {training.precision}"
    if training.filled is not None:
        return "holds pruned weights at zero"
    if training.distillation is not None:
        return "knows no distillation"
    if training.norm_l1 is not None:
        return "penalises no norms"
    task = training.task
    name = _other_network(training.model, tuple(task.input_shape), task.num_classes)
    return None if name is None else f"trains Linear-ReLU networks, not {name}"


@lru_cache(maxsize=64)
def _other_network(
    model: Callable[..., nn.Module], input_shape: tuple[int, ...], num_classes: int
) -> str | None:
    """The name of a network that is no perceptron, else None. Asked often, built once."""
    with torch.random.fork_rng(devices=[]):
        module = model(input_shape=input_shape, num_classes=num_classes)
    found = linears(module)
    if found is not None:
        given = [math.prod(input_shape), *(layer.out_features for _, layer in found[:-1])]
        if given == [layer.in_features for _, layer in found]:
            return None  # else something between reshapes
    return type(module).__name__


def linears(module: nn.Module) -> list[tuple[str, nn.Linear]] | None:
    """The Linear layers of a Linear-ReLU-...-Linear network in their order, else None.

    None too where a module is used twice, has hooks or buffers, or holds parameters that
    are not trained.
    """
    every = list(module.named_modules(remove_duplicate=False))
    leaves = [(n, m) for n, m in every if not list(m.children())]
    body = [(n, m) for n, m in leaves if not isinstance(m, nn.Flatten | nn.Identity)]
    kinds = [type(m) for _, m in body]
    if not body or kinds != [nn.Linear, nn.ReLU] * (len(body) // 2) + [nn.Linear]:
        return None
    if len({id(m) for _, m in body}) < len(body) or next(module.buffers(), None) is not None:
        return None
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for _, m in every):
        return None
    if not all(p.requires_grad for p in module.parameters()):
        return None
    inner = [m for m in module.modules() if list(m.children())]
    if any(getattr(type(m), "forward", None) is not nn.Sequential.forward for m in inner):
        return None  # a forward of its own could do anything
    own = {f"{n}.{p}" for n, m in body for p, _ in m.named_parameters()}
    if own != {n for n, _ in module.named_parameters()}:
        return None
    return [(n, m) for n, m in body if isinstance(m, nn.Linear)]
