"""The density at which a layer's sparse products take as long as its dense ones, measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lth.engine.products import Dense, Products, Sparse

STEP = 0.05
"""Between the densities that are tried."""

MEASURED = "measured"
"""What ``sparse_below`` is before it was."""


@dataclass(frozen=True)
class BreakEvens:
    """Densities by ``name``; a layer that was not measured has 0, dense products."""

    densities: Mapping[str, float]

    def of(self, rows: int, columns: int, batch: int) -> float:
        return self.densities.get(name(rows, columns, batch), 0.0)


def break_even(rows: int, columns: int, batch: int) -> float:
    """The largest multiple of STEP at which sparse products are no slower, 0 where none is.

    Of one (rows, columns) layer on the CPU with torch's current threads: ``W x``
    and ``dz x^T`` for a batch, at evenly spread survivors; the best of some
    repeats each. The optimizer's gain from holding survivors only comes on top.
    """
    x, dz = torch.rand(columns, batch), torch.rand(rows, batch)
    dense = _seconds(_products(rows, columns, 1.0), x, dz)
    # Sparse products take longer the more survivors there are, so halving finds it.
    low, high = 0, round(1 / STEP)
    while high - low > 1:
        middle = (low + high) // 2
        slower = _seconds(_products(rows, columns, middle * STEP), x, dz) > dense
        low, high = (low, middle) if slower else (middle, high)
    return round(low * STEP, 2)


def name(rows: int, columns: int, batch: int) -> str:
    """What a break-even is remembered by: ``300x784, batch 60``."""
    return f"{rows}x{columns}, batch {batch}"


def _products(rows: int, columns: int, density: float) -> Products:
    if density == 1.0:
        values = torch.rand(rows * columns)
        return Dense(torch.ones(rows, columns).bool(), values, torch.zeros_like(values))
    draw = torch.Generator().manual_seed(0)
    kept = torch.rand(rows, columns, generator=draw) < density
    values = torch.rand(int(kept.sum()))
    return Sparse(
        [kept],
        values,
        torch.zeros_like(values),
        rows=[slice(0, rows)],
        columns=[torch.arange(columns)],
        shape=(rows, columns),
        first=True,
    )


def _seconds(products: Products, x: Tensor, dz: Tensor) -> float:
    out = torch.empty(dz.shape)

    def both() -> None:
        products.forward(x, out=out)
        products.backward(dz, x)

    return best(both, repeats=5, seconds=0.005)


def best(job: Callable[[], None], *, repeats: int, seconds: float) -> float:
    """Seconds of a job: the least mean of ``repeats`` stretches of at least ``seconds``."""
    job()
    means = []
    for _ in range(repeats):
        began, times, spent = time.perf_counter(), 0, 0.0
        while spent < seconds:
            job()
            times, spent = times + 1, time.perf_counter() - began
        means.append(spent / times)
    return min(means)
