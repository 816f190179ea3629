"""The engine for multilayer perceptrons on the CPU: cohorts, and sparse products where they pay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lth.engine import lockstep
from lth.engine.batches import batch_key
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
    """

    sparse_below: float = 0.3
    cohort: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.sparse_below <= 1:
            raise ValueError(f"sparse_below: got {self.sparse_below}, allowed: 0 to 1 (a density)")
        at_least("cohort", self.cohort, 1)

    def groups(self, cohort: Sequence[Training], runtime: Runtime) -> Sequence[Sequence[Training]]:
        """Neighbours, at most ``cohort`` of them."""
        return lockstep.batched(cohort, self.cohort)

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
        """See ``lockstep.train``."""
        return lockstep.train(
            self,
            group,
            events=events,
            resume=resume,
            runtime=runtime,
            gather=lambda training: partial(Perceptrons, sparse_below=self.sparse_below),
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
            own = sum(map(self._held, live.mask.values()))
            before, data = data, batch_key(live.training)
            full = len(parts[-1]) == self.cohort or size + own > CACHED
            if parts[-1] and (full or data != before):
                parts.append([])
                size = 0
            parts[-1].append(live)
            size += own
        return parts

    def _held(self, kept: Tensor) -> int:
        """About how many values of a parameter its network holds."""
        survivors = int(kept.sum())
        return survivors if survivors <= self.sparse_below * kept.numel() else kept.numel()


def _in_common(training: Training) -> Json:
    """The depth, and what the loss is."""
    layers = [n for n in training.start.weights if n.rpartition(".")[2] == "weight"]
    return [len(layers), training.label_smoothing]


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
