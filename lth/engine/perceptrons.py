"""What perceptrons do together between events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lth.dataset.task import Split, in_chunks
from lth.engine.batches import Batches
from lth.engine.living import living
from lth.engine.lockstep import Live
from lth.engine.network import CHUNK
from lth.engine.rules import rule
from lth.engine.stage import Block, Images, Look, Rows, Source, Stage, place
from lth.engine.vector import Part, Plan, Vector, total_norm
from lth.optimizer import base_rate, load_slots_, set_rate, slots
from lth.types import TrainState

CPU = torch.device("cpu")
CACHED = 64 * 2**20
"""Bytes of a split up to which it is gathered once for all evaluations of a cohort."""

Below: TypeAlias = Callable[[Sequence[int]], float]
"""The density at or below which a layer of a shape goes through sparse products."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A Linear layer of one network: its masks, and which units below and of it live."""

    weight: str
    bias: str | None
    kept: Tensor
    bias_kept: Tensor | None
    columns: Tensor
    rows: Tensor

    def block(self, below: Below) -> Block:
        """What is computed of it, and how."""
        kept = self.kept[self.rows][:, self.columns]
        density = int(kept.sum()) / kept.numel() if kept.numel() else 1.0
        bias = None if self.bias_kept is None else self.bias_kept[self.rows]
        return Block(
            kept, bias, self.columns, sparse=density < 1 and density <= below(self.kept.shape)
        )

    def parts(
        self, block: Block, weights: slice, biases: slice | None, plan: Plan
    ) -> dict[str, Part]:
        """Where the survivors lie: the living as said, the others where the plan goes on."""
        inner = torch.zeros_like(self.kept)
        inner[self.rows[:, None], self.columns] = True
        held = self.kept & inner if block.sparse else inner
        found = {self.weight: _part(self.kept, held, weights, plan)}
        if self.bias is not None:
            assert self.bias_kept is not None and biases is not None
            alive = torch.zeros_like(self.bias_kept)
            alive[self.rows] = True
            found[self.bias] = _part(self.bias_kept, alive, biases, plan)
        return found


def _part(kept: Tensor, held: Tensor, place: slice, plan: Plan) -> Part:
    """Elements that are ``held`` at ``place``, and what else is kept."""
    if bool(held.all()):
        return Part(kept.shape, place, slice(0, 0), None)
    idle = (kept & ~held).flatten().nonzero().flatten()
    index = torch.cat([held.flatten().nonzero().flatten(), idle])
    return Part(kept.shape, place, plan.take(len(idle)), index)


class Perceptrons:
    """A cohort of perceptrons that see the same batches, step by step (``Together``)."""

    def __init__(self, lives: Sequence[Live], below: Below) -> None:
        self._lives = lives
        networks = [_layers(live) for live in lives]
        plan, places, blocks, rows = Plan(), [], [], []
        for layers in zip(*networks, strict=True):
            own = [layer.block(below) for layer in layers]
            blocks.append(own)
            rows.append(Rows([len(b.kept) for b in own]))
            places.append(place(own, rows[-1], plan))
        self._parts: list[dict[str, Part]] = []
        for index, network in enumerate(networks):
            parts: dict[str, Part] = {}
            for layer, own, where, lie in zip(network, blocks, places, rows, strict=True):
                parts |= layer.parts(own[index], where.weights[index], where.bias(lie, index), plan)
            self._parts.append(parts)
        self._vector = Vector(plan.size)
        for index, live in enumerate(lives):
            self._load(index, live.start)
        self._images = Images(blocks[0], networks[0][0].kept.shape[1])
        sources: list[Source] = [self._images, *rows[:-1]]
        self.stages = [
            Stage(*own, self._vector) for own in zip(blocks, sources, rows, places, strict=True)
        ]
        training = lives[0].training
        self._optimizer = rule(training.optimizer, self._vector)
        self._base_rate = base_rate(training.optimizer)
        self._load_slots([live.start for live in lives])
        self._batches = Batches(training, CPU)
        self._classes = torch.arange(len(networks[0][-1].kept)).unsqueeze(1)  # all outputs
        self._dz = torch.zeros(0, 0)
        self._rows = torch.arange(training.task.batch_size)
        # By the id of a split, which is held so that no other gets it.
        self._gathered: dict[int, tuple[Split, list[tuple[Look, Tensor]]]] = {}
        self._evaluated: dict[int, tuple[Split, list[tuple[Tensor, Tensor]]]] = {}

    def _load(self, index: int, state: TrainState) -> None:
        for name, part in self._parts[index].items():
            part.write(self._vector.values.data, state.weights[name])

    def _load_slots(self, states: Sequence[TrainState]) -> None:
        """Pack saved slots, parameter by parameter; counters are the same in a cohort."""
        merged: dict[str, Tensor] = {}
        for key, value in (states[0].optimizer or {}).items():
            own = value if value.ndim == 0 else torch.zeros_like(self._vector.values.data)
            merged.setdefault(f"values/{key.rpartition('/')[2]}", own)
        for parts, state in zip(self._parts, states, strict=True):
            for key, value in (state.optimizer or {}).items():
                name, _, slot = key.rpartition("/")
                if value.ndim:
                    parts[name].write(merged[f"values/{slot}"], value)
        load_slots_(self._optimizer, self._vector, merged)

    @torch.no_grad()
    def advance(self, stop: int) -> None:
        """Update every network until step ``stop``."""
        first = self._lives[0]
        self._evaluated.clear()
        losses = torch.stack([live.loss_sum for live in self._lives])
        for step in range(first.step, stop):
            x, y = self._batches(step)
            losses += self._gradients(x, y)
            set_rate(self._optimizer, self._base_rate * first.training.learning_rate(step))
            self._optimizer.step()
        for live, loss in zip(self._lives, losses, strict=True):
            live.loss_sum.copy_(loss)
            live.loss_count += stop - live.step
            live.step = stop

    def state(self, index: int, *, optimizer: bool) -> TrainState:
        return TrainState(
            step=self._lives[index].step,
            weights={n: p.read(self._vector.values.data) for n, p in self._parts[index].items()},
            buffers={},
            optimizer=self._slots(index) if optimizer else None,
        )

    def _slots(self, index: int) -> dict[str, Tensor]:
        """A network's optimizer slots as any engine keeps them (copies)."""
        known = slots(self._optimizer, self._vector)
        return {
            f"{name}/{key.rpartition('/')[2]}": value.clone()
            if value.ndim == 0
            else part.read(value)
            for name, part in self._parts[index].items()
            for key, value in known.items()
        }

    def _gradients(self, x: Tensor, y: Tensor) -> Tensor:
        """One forward and backward pass of all: gradients into the vector; losses (networks,)."""
        activations: Any = self._images.look(x)
        inputs = []
        for stage in self.stages:
            out, read = stage.forward(activations, len(y))
            inputs.append((stage, activations, read))
            activations = out if stage is self.stages[-1] else out.relu_()
        dz, losses = self._loss(out, y)
        for stage, below, read in reversed(inputs):
            stage.backward(dz, read)
            if stage is not self.stages[0]:
                dz = stage.input_gradient(dz)
                torch.ops.aten.threshold_backward.grad_input(dz, below, 0, grad_input=dz)
        self._clip()
        return losses

    def _loss(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Its gradient by the outputs, laid out as they are, and the cross-entropy (networks,)."""
        smoothing = self._lives[0].training.label_smoothing
        classes, size = len(self._classes), len(y)
        if self._dz.shape != outputs.shape:
            self._dz = torch.zeros_like(outputs)
        logs = _by_network(outputs, len(self._lives))[:, :classes].log_softmax(1)
        losses = -logs[:, y, self._rows].mean(1) * (1 - smoothing)
        target = (self._classes == y).float()
        if smoothing:
            losses -= logs.mean((1, 2)) * smoothing
            target = target * (1 - smoothing) + smoothing / classes
        dz = _by_network(self._dz, len(self._lives))[:, :classes]
        torch.sub(logs.exp_(), target, out=dz)
        self._dz.div_(size)
        return self._dz, losses

    def _clip(self) -> None:
        for index, live in enumerate(self._lives):
            limit = live.training.grad_clip
            if limit is not None:
                own = [g for stage in self.stages for g in stage.gradients(index)]
                scale = (limit / (total_norm(own) + 1e-6)).clamp_max_(1.0)
                for gradient in own:
                    gradient *= scale

    @torch.no_grad()
    def evaluate(self, index: int, split: Split, state: TrainState | None) -> tuple[Tensor, Tensor]:
        """Per-example loss and class of one network, as it is or in another state.

        As they are, all networks are evaluated at once: images are gathered for all of them.
        """
        if state is None:
            if id(split) not in self._evaluated:
                results = self._evaluate(split, range(len(self._lives)))
                self._evaluated[id(split)] = split, results
            losses, classes = self._evaluated[id(split)][1][index]
            return losses.clone(), classes.clone()
        now = self.state(index, optimizer=False)
        self._load(index, state)
        (result,) = self._evaluate(split, [index])
        self._load(index, now)
        return result

    def _evaluate(self, split: Split, networks: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in networks]
        for look, y in self._examples(split):
            rows = torch.arange(len(y))
            for index, own in zip(networks, found, strict=True):
                z = self.stages[0].alone(index, look)
                for stage in self.stages[1:]:
                    z = stage.alone(index, z.relu_())
                logs = torch.log_softmax(z, 0)
                own.append((-logs[y, rows], z.argmax(0)))  # rounding may make logs equal
        whole = [[torch.cat(part) for part in zip(*own, strict=True)] for own in found]
        return [(losses, classes) for losses, classes in whole]

    def _examples(self, split: Split) -> Iterable[tuple[Look, Tensor]]:
        if id(split) in self._gathered:
            return self._gathered[id(split)][1]
        chunks = ((self._images.look(x), y) for x, y in in_chunks(split, CHUNK))
        if 4 * len(split) * math.prod(self._lives[0].training.task.input_shape) > CACHED:
            return chunks
        self._gathered[id(split)] = split, list(chunks)
        return self._gathered[id(split)][1]


def _by_network(rows: Tensor, networks: int) -> Tensor:
    return rows.view(networks, -1, rows.shape[1])


def _layers(live: Live) -> list[Layer]:
    """The layers of one network in their order, and what lives of them."""
    parameters: Mapping[str, Tensor] = live.network.parameters
    kept = {
        n: live.mask.get(n, torch.ones(p.shape, dtype=torch.bool)) for n, p in parameters.items()
    }
    weights = [n for n in kept if n.rpartition(".")[2] == "weight"]
    biases = [f"{n.rpartition('.')[0]}.bias".lstrip(".") for n in weights]
    units = living([kept[n] for n in weights], [kept.get(n) for n in biases])
    alive = [u.nonzero().flatten() for u in units]
    return [
        Layer(w, b if b in kept else None, kept[w], kept.get(b), alive[i], alive[i + 1])
        for i, (w, b) in enumerate(zip(weights, biases, strict=True))
    ]
