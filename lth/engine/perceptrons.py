"""What perceptrons do together between events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lth.dataset.task import Split, in_chunks
from lth.engine.batches import Batches
from lth.engine.lockstep import Live
from lth.engine.network import CHUNK
from lth.engine.packed import Cohort, Dense, Layer, Packed, Sparse, partial
from lth.types import TrainState, Weights

CPU = torch.device("cpu")
CACHED = 64 * 2**20
"""Bytes of a split up to which it is gathered once for all evaluations of a cohort."""


class Perceptrons:
    """A cohort of perceptrons that see the same batches, step by step (``Together``)."""

    def __init__(self, lives: Sequence[Live], sparse_below: float) -> None:
        self._lives = lives
        self._layers: list[list[Layer]] = []
        shapes = [
            {n: (p.shape, partial(live.mask, n)) for n, p in live.network.parameters.items()}
            for live in lives
        ]
        self.cohort = Cohort([live.training for live in lives], [v.start for v in lives], shapes)
        scratch: dict[torch.Size, Tensor] = {}
        for packed in self.cohort.packed:
            self._layers.append(_layers(packed, sparse_below, scratch))
        self._batches = Batches(lives[0].training, CPU)
        self._gathered: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    @torch.no_grad()
    def advance(self, stop: int) -> None:
        """Update every network until step ``stop``."""
        cohort, first = self.cohort, self._lives[0]
        for step in range(first.step, stop):
            batch, y = self._batches(step)
            x, rows = self._turned(batch), torch.arange(len(y))
            for index, live in enumerate(self._lives):
                self._pass(index, live, x, y, rows)
            cohort.set_rate(first.training.learning_rate(step))
            cohort.optimizer.step()
            for layers in self._layers:
                for layer in layers:
                    layer.spread()
        for live in self._lives:
            live.step = stop

    def state(self, index: int, *, optimizer: bool) -> TrainState:
        return TrainState(
            step=self._lives[index].step,
            weights=self.cohort.weights(index),
            buffers={},
            optimizer=self.cohort.slots(index) if optimizer else None,
        )

    def _turned(self, x: Tensor) -> Tensor:
        """(features, examples): contiguous where a sparse first layer wants it so."""
        turned = x.flatten(1).t()
        wanted = any(layers[0].wants_contiguous for layers in self._layers)
        return turned.contiguous() if wanted else turned

    def _pass(self, index: int, live: Live, x: Tensor, y: Tensor, rows: Tensor) -> None:
        """One forward and backward pass; the gradients go into the vector."""
        layers, inputs = self._layers[index], [x]
        for layer in layers[:-1]:
            inputs.append(layer.forward(inputs[-1]).relu_())
        logs = torch.log_softmax(layers[-1].forward(inputs[-1]), 0)
        smoothing = live.training.label_smoothing
        loss = -logs[y, rows].mean() * (1 - smoothing)
        if smoothing:
            loss -= logs.mean() * smoothing
        dz = logs.exp_()
        dz[y, rows] -= 1 - smoothing
        if smoothing:
            dz -= smoothing / len(dz)
        dz /= len(y)
        for depth in range(len(layers) - 1, -1, -1):
            layers[depth].backward(dz, inputs[depth])
            if depth:
                dz = layers[depth].input_gradient(dz)
                torch.ops.aten.threshold_backward.grad_input(dz, inputs[depth], 0, grad_input=dz)
        if live.training.grad_clip is not None:
            own = self.cohort.gradient_part(index)
            norm = torch.linalg.vector_norm(own)
            own *= (live.training.grad_clip / (norm + 1e-6)).clamp_max_(1.0)
        live.loss_sum += loss
        live.loss_count += 1

    @torch.no_grad()
    def evaluate(self, index: int, split: Split, state: TrainState | None) -> tuple[Tensor, Tensor]:
        """Per-example loss and class of one network, as it is or in another state."""
        if state is not None:
            now = self.cohort.weights(index)
            self._set(index, state.weights)
            result = self.evaluate(index, split, None)
            self._set(index, now)
            return result
        losses, classes = [], []
        for x, y, rows in self._examples(split):
            for layer in self._layers[index][:-1]:
                x = layer.forward(x).relu_()
            logs = torch.log_softmax(self._layers[index][-1].forward(x), 0)
            losses.append(-logs[y, rows])
            classes.append(logs.argmax(0))
        return torch.cat(losses), torch.cat(classes)

    def _set(self, index: int, weights: Weights) -> None:
        for name, own in self.cohort.packed[index].items():
            own.load(weights[name])

    def _examples(self, split: Split) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        if id(split) in self._gathered:
            return self._gathered[id(split)]
        chunks = ((self._turned(x), y, torch.arange(len(y))) for x, y in in_chunks(split, CHUNK))
        if 4 * len(split) * math.prod(self._lives[0].training.task.input_shape) > CACHED:
            return chunks
        self._gathered[id(split)] = list(chunks)
        return self._gathered[id(split)]


def _layers(
    packed: Mapping[str, Packed],
    sparse_below: float,
    scratch: dict[torch.Size, Tensor],
) -> list[Layer]:
    found: list[Layer] = []
    for name in (n for n in packed if n.rpartition(".")[2] == "weight"):
        weight, bias = packed[name], packed.get(f"{name.rpartition('.')[0]}.bias".lstrip("."))
        shape = weight.dense.shape
        density = weight.values.numel() / shape.numel()
        if weight.kept is not None and density <= sparse_below:
            found.append(Sparse(weight, bias, first=not found))
        else:
            found.append(Dense(weight, bias, scratch.setdefault(shape, torch.empty(shape))))
    return found
