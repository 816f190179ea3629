"""The matrix products of a layer, between living units. Activations are (units, examples)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


class Dense:
    """One network's layer by dense products.

    ``kept`` (rows, columns) says what is not pruned; the vector holds the whole
    matrix, and what is pruned gets no gradient: it stays exactly zero. (Holding
    survivors only costs more in gathering than it saves in the optimizer.)
    """

    def __init__(self, kept: Tensor, values: Tensor, gradient: Tensor) -> None:
        self._weight, self._gradient = values.view(kept.shape), gradient.view(kept.shape)
        self._kept = None if bool(kept.all()) else kept.float()

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``W x`` (rows, B) of ``x`` (columns, B), which may be a transposed view."""
        return torch.mm(self._weight, x, out=out)

    def backward(self, dz: Tensor, x: Tensor) -> None:
        """The survivors' gradient ``dz x^T``, into the vector."""
        torch.mm(dz, x.t(), out=self._gradient)
        if self._kept is not None:
            self._gradient.mul_(self._kept)

    def input_gradient(self, dz: Tensor, out: Tensor) -> None:
        """``W^T dz`` (columns, B)."""
        torch.mm(self._weight.t(), dz, out=out)


class Sparse:
    """The same layer of several networks by sparse products: only where the masks are alive.

    One matrix in CSR form holds them all: network i fills ``rows[i]`` and the
    columns ``columns[i]`` (one number for each of its mask's columns; of a first
    layer, networks share columns), so what is between is zero. The survivors in
    mask order are its values, so the vector is used as it is; the transposed
    matrix has them permuted.
    """

    def __init__(
        self,
        kept: Sequence[Tensor],
        values: Tensor,
        gradient: Tensor,
        *,
        rows: Sequence[slice],
        columns: Sequence[Tensor],
        shape: tuple[int, int],
        first: bool,
    ) -> None:
        self._values = values
        row = torch.cat([k.nonzero()[:, 0] + r.start for k, r in zip(kept, rows, strict=True)])
        column = torch.cat([c[k.nonzero()[:, 1]] for k, c in zip(kept, columns, strict=True)])
        self._matrix = _csr(row, column, values, shape)
        self._pattern = _csr(row, column, gradient, shape)
        if not first:
            # Where each survivor of the transposed matrix stands in the vector.
            self._order = torch.argsort(column * shape[0] + row)
            self._turned = torch.zeros_like(values)
            self._transposed = _csr(
                column[self._order], row[self._order], self._turned, (shape[1], shape[0])
            )

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """``W x`` (rows, B) of ``x`` (columns, B), contiguous."""
        if out is None:
            out = torch.empty(self._matrix.shape[0], x.shape[1])
        return torch.addmm(out, self._matrix, x, beta=0.0, out=out)

    def backward(self, dz: Tensor, x: Tensor) -> None:
        """The survivors' gradient ``dz x^T``, into the vector."""
        pattern = self._pattern
        torch.sparse.sampled_addmm(pattern, dz, x.t(), beta=0.0, out=pattern)

    def input_gradient(self, dz: Tensor, out: Tensor) -> None:
        """``W^T dz`` (columns, B)."""
        torch.index_select(self._values, 0, self._order, out=self._turned)
        torch.addmm(out, self._transposed, dz, beta=0.0, out=out)


Products = Dense | Sparse


def _csr(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The matrix of ``values``, which are shared, not copied, at places sorted by rows."""
    starts = torch.zeros(shape[0] + 1, dtype=torch.int32)
    starts[1:] = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    with warnings.catch_warnings():
        # Torch calls CSR a beta; what is used of it here is tested against dense products.
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        return torch.sparse_csr_tensor(starts, columns.int(), values, shape, check_invariants=False)
