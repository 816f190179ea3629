"""The values of several networks in one vector, survivors only, and the layers that use them.

Each parameter of each network owns a segment of the vector, padded to 64 values
so that every element goes through the same vector instructions whoever shares
the cohort. The optimizer sees that one vector: it neither moves nor remembers
anything for a pruned weight.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lth.engine.rules import rule
from lth.optimizer import base_rate, load_slots_, set_rate, slots
from lth.training import Training
from lth.types import Mask, TrainState

ALIGN = 64


class Vector(nn.Module):
    """One parameter, ``values``, and who owns which part of it."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        padded = [-(-n // ALIGN) * ALIGN for n in sizes]
        starts = [sum(padded[:i]) for i in range(len(padded))]
        self.parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
        self.values = nn.Parameter(torch.zeros(sum(padded)))
        self.values.grad = torch.zeros(sum(padded))

    @property
    def gradient(self) -> Tensor:
        assert self.values.grad is not None
        return self.values.grad


class Packed:
    """One parameter of one network: ``dense`` (its shape) and its part of the vector.

    Where nothing is pruned ``dense`` is a view of the vector; else it is a
    tensor of its own with exact zeros, that ``spread`` writes survivors to.
    """

    def __init__(self, vector: Vector, part: slice, shape: torch.Size, kept: Tensor | None) -> None:
        self.values, self.gradient = vector.values.data[part], vector.gradient[part]
        self.kept = kept
        self.index: Tensor | None = None
        if kept is None:
            self.dense = self.values.view(shape)
            self.dense_gradient = self.gradient.view(shape)
        else:
            self.index = kept.flatten().nonzero().flatten()
            self.dense = torch.zeros(shape)

    def pack(self, tensor: Tensor) -> Tensor:
        """The survivors of a tensor of this parameter's shape, in mask order."""
        return tensor.flatten() if self.index is None else tensor.flatten()[self.index]

    def unpack(self, values: Tensor) -> Tensor:
        """A tensor of this parameter's shape, zero where it is pruned."""
        if self.index is None:
            return values.view(self.dense.shape).clone()
        full = torch.zeros(self.dense.numel(), dtype=values.dtype)
        full[self.index] = values
        return full.view(self.dense.shape)

    def load(self, tensor: Tensor) -> None:
        """Set the survivors from a tensor of this parameter's shape."""
        self.values.copy_(self.pack(tensor))
        self.spread()

    def spread(self) -> None:
        """Bring ``dense`` up to date with the vector."""
        if self.index is not None:
            self.dense.view(-1).index_copy_(0, self.index, self.values)

    def collect(self, gradient: Tensor) -> None:
        """Put the survivors' part of a dense gradient into the vector."""
        assert self.index is not None
        torch.index_select(gradient.view(-1), 0, self.index, out=self.gradient)


class Dense:
    """A Linear layer by dense products. Activations are (features, examples)."""

    def __init__(self, weight: Packed, bias: Packed | None, scratch: Tensor) -> None:
        self.weight, self.bias, self._scratch = weight, bias, scratch
        self.wants_contiguous = False

    def forward(self, x: Tensor) -> Tensor:
        """``W x + b`` (out, B) of ``x`` (in, B), which may be a transposed view."""
        if self.bias is None:
            return torch.mm(self.weight.dense, x)
        return torch.addmm(self.bias.dense.unsqueeze(1), self.weight.dense, x)

    def backward(self, dz: Tensor, x: Tensor) -> None:
        """The gradients of weight and bias, into the vector."""
        if self.weight.index is None:
            torch.mm(dz, x.t(), out=self.weight.dense_gradient)
        else:
            torch.mm(dz, x.t(), out=self._scratch)
            self.weight.collect(self._scratch)
        _bias_gradient(self.bias, dz)

    def input_gradient(self, dz: Tensor) -> Tensor:
        """``W^T dz`` (in, B)."""
        return torch.mm(self.weight.dense.t(), dz)

    def spread(self) -> None:
        """After the optimizer moved the vector."""
        self.weight.spread()
        if self.bias is not None:
            self.bias.spread()


class Sparse:
    """A Linear layer by sparse products: only where its mask is alive, forward and backward.

    The survivors in mask order are the values of the weight in CSR form, so the
    vector is used as it is; the transposed weight has them permuted.
    """

    def __init__(self, weight: Packed, bias: Packed | None, *, first: bool) -> None:
        assert weight.kept is not None
        self.weight, self.bias = weight, bias
        self.wants_contiguous = True
        self._matrix = _csr(weight.kept, weight.values)
        self._pattern = _csr(weight.kept, torch.zeros_like(weight.values))
        self._order: Tensor | None = None
        if not first:
            # Where each survivor of the transposed matrix stands in mask order.
            place = torch.full(weight.kept.shape, -1)
            place[weight.kept] = torch.arange(weight.values.numel())
            self._order = place.t()[weight.kept.t()]
            self._turned = weight.values[self._order]
            self._transposed = _csr(weight.kept.t().contiguous(), self._turned)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = torch.sparse.mm(self._matrix, x)
        return z if self.bias is None else z.add_(self.bias.dense.unsqueeze(1))

    def backward(self, dz: Tensor, x: Tensor) -> None:
        gradient = torch.sparse.sampled_addmm(self._pattern, dz, x.t(), beta=0.0)
        self.weight.gradient.copy_(gradient.values())
        _bias_gradient(self.bias, dz)

    def input_gradient(self, dz: Tensor) -> Tensor:
        assert self._order is not None
        torch.index_select(self.weight.values, 0, self._order, out=self._turned)
        turned: Tensor = torch.sparse.mm(self._transposed, dz)
        return turned

    def spread(self) -> None:
        if self.bias is not None:
            self.bias.spread()


Layer = Dense | Sparse


def _bias_gradient(bias: Packed | None, dz: Tensor) -> None:
    if bias is None:
        return
    if bias.index is None:
        torch.sum(dz, 1, out=bias.gradient)
    else:
        bias.collect(dz.sum(1))


def _csr(kept: Tensor, values: Tensor) -> Tensor:
    rows = torch.zeros(kept.shape[0] + 1, dtype=torch.int32)
    rows[1:] = kept.sum(1).cumsum(0)
    columns = kept.nonzero()[:, 1].int()
    with warnings.catch_warnings():
        # Torch calls CSR a beta; what is used of it here is tested against dense products.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        # The values are shared, not copied: the optimizer moves them in place.
        return torch.sparse_csr_tensor(rows, columns, values, kept.shape, check_invariants=False)


def partial(mask: Mask, name: str) -> Tensor | None:
    """The mask of a parameter, or None where nothing of it is pruned."""
    kept = mask.get(name)
    return None if kept is None or bool(kept.all()) else kept


class Cohort:
    """Networks under their masks, with one optimizer over all of their values."""

    def __init__(
        self,
        trainings: Sequence[Training],
        states: Sequence[TrainState],
        networks: Sequence[Mapping[str, tuple[torch.Size, Tensor | None]]],
    ) -> None:
        sizes = [
            shape.numel() if kept is None else int(kept.sum())
            for network in networks
            for shape, kept in network.values()
        ]
        self.vector = Vector(sizes)
        parts = iter(self.vector.parts)
        self.packed: list[dict[str, Packed]] = [
            {n: Packed(self.vector, next(parts), shape, kept) for n, (shape, kept) in net.items()}
            for net in networks
        ]
        for packed, state in zip(self.packed, states, strict=True):
            for name, own in packed.items():
                own.load(state.weights[name])
        self.optimizer = rule(trainings[0].optimizer, self.vector)
        self._base_rate = base_rate(trainings[0].optimizer)
        self._load_slots(states)

    def _load_slots(self, states: Sequence[TrainState]) -> None:
        """Pack saved slots, parameter by parameter; counters are the same in a cohort."""
        first = states[0].optimizer or {}
        merged: dict[str, Tensor] = {}
        for key, value in first.items():
            slot = key.rpartition("/")[2]
            if value.ndim == 0:
                merged.setdefault(f"values/{slot}", value)
            else:
                merged.setdefault(f"values/{slot}", torch.zeros_like(self.vector.values.data))
        offsets = self._places()
        for index, state in enumerate(states):
            for key, value in (state.optimizer or {}).items():
                name, _, slot = key.rpartition("/")
                if value.ndim:
                    own = self.packed[index][name]
                    merged[f"values/{slot}"][offsets[index, name]] = own.pack(value)
        load_slots_(self.optimizer, self.vector, merged)

    def _places(self) -> dict[tuple[int, str], slice]:
        parts = iter(self.vector.parts)
        return {(i, n): next(parts) for i, packed in enumerate(self.packed) for n in packed}

    def weights(self, index: int) -> dict[str, Tensor]:
        """A network's weights, dense, with exact zeros (copies)."""
        return {n: own.unpack(own.values) for n, own in self.packed[index].items()}

    def slots(self, index: int) -> dict[str, Tensor]:
        """A network's optimizer slots as any engine keeps them (copies)."""
        known = slots(self.optimizer, self.vector)
        offsets = self._places()
        found = {}
        for name, own in self.packed[index].items():
            for key, value in known.items():
                slot = key.rpartition("/")[2]
                whole = value.ndim == 0
                part = value.clone() if whole else own.unpack(value[offsets[index, name]])
                found[f"{name}/{slot}"] = part
        return found

    def gradient_part(self, index: int) -> Tensor:
        """All of a network's part of the gradient, padding (zeros) included."""
        places = [s for (i, _), s in self._places().items() if i == index]
        return self.vector.gradient[places[0].start : places[-1].stop]

    def set_rate(self, multiplier: float) -> None:
        """Scale the optimizer's base learning rate."""
        set_rate(self.optimizer, self._base_rate * multiplier)
