"""One layer of all networks of a cohort, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from lth.engine.products import Dense, Products, Sparse
from lth.engine.vector import Plan, Vector, padded

ROWS = 16
"""A network's units begin at multiples of this many rows: on a cache line, as if it were alone."""


@dataclass(frozen=True, eq=False)
class Block:
    """One network's part of a layer, between living units.

    ``kept`` (rows, columns) says what is not pruned, ``bias`` (rows,) of the
    biases, None where there are none; ``columns`` which units of the layer below
    its columns are. ``sparse`` is how it is computed.
    """

    kept: Tensor
    bias: Tensor | None
    columns: Tensor
    sparse: bool

    @property
    def size(self) -> int:
        """How many values the vector holds of its weights."""
        return int(self.kept.sum()) if self.sparse else self.kept.numel()


@dataclass(frozen=True)
class Run:
    """Networks that are computed at once: sparse neighbours, or a dense one."""

    members: tuple[int, ...]
    sparse: bool


def runs(blocks: Sequence[Block]) -> list[Run]:
    """A layer's networks as runs, in their order."""
    found = []
    for sparse, group in groupby(range(len(blocks)), lambda i: blocks[i].sparse):
        members = tuple(group)
        found += [Run(m, sparse) for m in ([members] if sparse else [(i,) for i in members])]
    return found


class Source(Protocol):
    """What a layer reads: images, or the layer below."""

    def columns(self, run: Run) -> tuple[int, list[Tensor]]:
        """How many inputs a sparse run has, and which of them are each network's."""
        ...

    def read(self, activations: Any, run: Run) -> Tensor:
        """A run's inputs (inputs, B)."""
        ...


class Look(NamedTuple):
    """Images as dense first layers (B, inputs) and as sparse ones (living inputs, B) want them."""

    flat: Tensor | None
    turned: Tensor | None


class Images:
    """What first layers read of a batch, without dead inputs."""

    def __init__(self, blocks: Sequence[Block], inputs: int) -> None:
        self._blocks, self._inputs = blocks, inputs
        self._any_dense = not all(b.sparse for b in blocks)
        seen = torch.zeros(inputs, dtype=torch.bool)
        for block in blocks:
            if block.sparse:
                seen[block.columns] = True
        self._living = seen.nonzero().flatten()

    def look(self, x: Tensor) -> Look:
        """Images (B, ...) as they are wanted."""
        flat, turned = x.flatten(1), None
        if len(self._living):
            turned = self._take(flat, self._living).t().contiguous()
        return Look(flat if self._any_dense else None, turned)

    def columns(self, run: Run) -> tuple[int, list[Tensor]]:
        """See ``Source``: networks share inputs."""
        own = [self._blocks[i].columns for i in run.members]
        return len(self._living), [torch.searchsorted(self._living, c) for c in own]

    def read(self, activations: Look, run: Run) -> Tensor:
        """See ``Source``, of what ``look`` gave."""
        if run.sparse:
            assert activations.turned is not None
            return activations.turned
        assert activations.flat is not None
        return self._take(activations.flat, self._blocks[run.members[0]].columns).t()

    def _take(self, flat: Tensor, columns: Tensor) -> Tensor:
        return flat if len(columns) == self._inputs else flat.index_select(1, columns)


class Rows:
    """Where each network's units lie in the activations (``height``, B) of a layer."""

    def __init__(self, sizes: Sequence[int]) -> None:
        heights = [padded(size, ROWS) for size in sizes]
        starts = [sum(heights[:i]) for i in range(len(sizes))]
        self.height = sum(heights)
        self.parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]

    def span(self, run: Run) -> slice:
        """The rows of a run, between its networks (which are zero) included."""
        first, last = self.parts[run.members[0]], self.parts[run.members[-1]]
        return slice(first.start, padded(last.stop, ROWS) if run.sparse else last.stop)

    def columns(self, run: Run) -> tuple[int, list[Tensor]]:
        """See ``Source``: each network has its own."""
        span = self.span(run)
        own = [self.parts[i] for i in run.members]
        return span.stop - span.start, [
            torch.arange(p.start - span.start, p.stop - span.start) for p in own
        ]

    def read(self, activations: Tensor, run: Run) -> Tensor:
        """See ``Source``."""
        return activations[self.span(run)]


@dataclass(frozen=True)
class Places:
    """Where a layer's weights, one slice for each network, and all of its biases lie."""

    weights: list[slice]
    biases: slice | None

    def bias(self, rows: Rows, index: int) -> slice | None:
        """Where one network's biases lie."""
        if self.biases is None:
            return None
        own = rows.parts[index]
        return slice(self.biases.start + own.start, self.biases.start + own.stop)


def place(blocks: Sequence[Block], rows: Rows, plan: Plan) -> Places:
    """Take places: a run's weights without a gap, biases as the rows lie."""
    weights: list[slice] = []
    for run in runs(blocks):
        plan.align()
        weights += [plan.take(blocks[i].size) for i in run.members]
    plan.align()
    biased = any(block.bias is not None for block in blocks)
    return Places(weights, plan.take(rows.height) if biased else None)


class Stage:
    """The same layer of several networks, whose activations lie one below the other."""

    def __init__(
        self,
        blocks: Sequence[Block],
        source: Source,
        rows: Rows,
        places: Places,
        vector: Vector,
    ) -> None:
        self.blocks, self.source, self.rows, self._places = blocks, source, rows, places
        self._values, self._gradient = vector.values.data, vector.gradient
        self._runs = runs(blocks)
        self._spans = [rows.span(run) for run in self._runs]
        self._below = [source.span(run) for run in self._runs] if isinstance(source, Rows) else []
        self._products = [self._of(run) for run in self._runs]
        self._alone: dict[int, Products] = {}
        self._out, self._down = torch.zeros(0, 0), torch.zeros(0, 0)
        self._cut: dict[int, tuple[Tensor, list[Tensor]]] = {}
        if places.biases is not None:
            self._bias = self._values[places.biases].unsqueeze(1)
            self._bias_gradient = self._gradient[places.biases]
            kept = torch.ones(rows.height)  # between networks gradients are zero anyhow
            for part, block in zip(rows.parts, blocks, strict=True):
                kept[part] = 0.0 if block.bias is None else block.bias.float()
            self._bias_kept = None if bool(kept.all()) else kept

    def _of(self, run: Run) -> Products:
        places = [self._places.weights[i] for i in run.members]
        place = slice(places[0].start, places[-1].stop)
        kept = [self.blocks[i].kept for i in run.members]
        if not run.sparse:
            return Dense(kept[0], self._values[place], self._gradient[place])
        span = self.rows.span(run)
        width, columns = self.source.columns(run)
        own = [self.rows.parts[i] for i in run.members]
        return Sparse(
            kept,
            self._values[place],
            self._gradient[place],
            rows=[slice(p.start - span.start, p.stop - span.start) for p in own],
            columns=columns,
            shape=(span.stop - span.start, width),
            first=isinstance(self.source, Images),
        )

    def forward(self, activations: Any, batch: int) -> tuple[Tensor, list[Tensor]]:
        """``W x + b`` (height, B), which holds until the next call, and what was read for it."""
        if self._out.shape[1] != batch:
            self._out = torch.zeros(self.rows.height, batch)
        inputs = self._read(activations)
        outs = self._parts(self._out, self._spans)
        for products, x, out in zip(self._products, inputs, outs, strict=True):
            products.forward(x, out=out)
        if self._places.biases is not None:
            self._out.add_(self._bias)
        return self._out, inputs

    def backward(self, dz: Tensor, inputs: Sequence[Tensor]) -> None:
        """The gradients of weights and biases, into the vector."""
        for products, x, own in zip(
            self._products, inputs, self._parts(dz, self._spans), strict=True
        ):
            products.backward(own, x)
        if self._places.biases is not None:
            torch.sum(dz, 1, out=self._bias_gradient)
            if self._bias_kept is not None:
                self._bias_gradient.mul_(self._bias_kept)

    def input_gradient(self, dz: Tensor) -> Tensor:
        """``W^T dz``, as the activations of the layer below lie."""
        below = self.source
        assert isinstance(below, Rows)
        if self._down.shape[1] != dz.shape[1]:
            self._down = torch.zeros(below.height, dz.shape[1])
        own, down = self._parts(dz, self._spans), self._read(self._down)
        for products, part, out in zip(self._products, own, down, strict=True):
            products.input_gradient(part, out=out)
        return self._down

    def _read(self, activations: Any) -> list[Tensor]:
        if isinstance(self.source, Rows):
            return self._parts(activations, self._below)
        return [self.source.read(activations, run) for run in self._runs]

    def _parts(self, whole: Tensor, spans: Sequence[slice]) -> list[Tensor]:
        """Rows of one of the few tensors that every update uses: cutting them takes time."""
        if id(whole) not in self._cut:
            self._cut[id(whole)] = whole, [whole[span] for span in spans]
        return self._cut[id(whole)][1]

    def gradients(self, index: int) -> list[Tensor]:
        """A network's parts of the gradient."""
        found = [self._gradient[self._places.weights[index]]]
        if self.blocks[index].bias is not None:  # others of the cohort may have biases all the same
            found.append(self._bias_gradient[self.rows.parts[index]])
        return found

    def alone(self, index: int, activations: Any) -> Tensor:
        """``W x + b`` (rows, B) of one network; ``activations`` are its own but for images."""
        run = Run((index,), self.blocks[index].sparse)
        images = isinstance(self.source, Images)
        x = self.source.read(activations, run) if images else activations
        if index not in self._alone:
            self._alone[index] = self._one(run)
        z = self._alone[index].forward(x)
        if self._places.biases is not None:
            z.add_(self._bias[self.rows.parts[index]])
        return z

    def _one(self, run: Run) -> Products:
        (index,) = run.members
        if not run.sparse:
            return self._products[self._runs.index(run)]
        block, place = self.blocks[index], self._places.weights[index]
        height, width = block.kept.shape
        columns = [torch.arange(width)]
        if isinstance(self.source, Images):
            width, columns = self.source.columns(run)
        return Sparse(
            [block.kept],
            self._values[place],
            self._gradient[place],
            rows=[slice(0, height)],
            columns=columns,
            shape=(height, width),
            first=True,
        )
