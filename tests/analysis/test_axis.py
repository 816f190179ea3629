"""Logarithmic axes: ends, ticks, and what a logarithm cannot take."""

from __future__ import annotations

import math
from typing import Any

import pytest

from analysis.axis import MOST, x_axis, y_axis
from analysis.figure import Panel, Series


def panel(x: list[float], y: list[float], **options: Any) -> Panel:
    return Panel(series=[Series(label="a", x=x, y=y, colour="#000000")], **options)


def test_densities_are_told_in_percent() -> None:
    axis = x_axis(panel([1.0, 0.5, 0.02], [0.0] * 3, x_axis="density"))
    assert axis is not None
    assert list(axis.texts) == ["2 %", "5 %", "10 %", "20 %", "50 %", "100 %"]
    assert axis.ticks == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert axis.low < 0.02 and axis.high > 1.0
    assert x_axis(panel([1.0], [1.0])) is None


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.05), (0.9, 1.0), (1e-7, 1.0), (3.0, 1e6)])
def test_there_are_some_ticks_but_not_too_many(low: float, high: float) -> None:
    axis = y_axis(panel([0.0, 1.0], [low, high], y_axis="log"))
    assert axis is not None
    assert 1 <= len(axis.ticks) <= MOST + 2
    assert all(axis.low <= t <= axis.high for t in axis.ticks)
    assert len(axis.texts) == len(axis.ticks)


def test_zero_lies_on_the_lower_edge_and_nothing_below_it() -> None:
    axis = y_axis(panel([0.0, 1.0, 2.0], [100.0, 10.0, 0.0], y_axis="log"))
    assert axis is not None
    assert axis.low < 5.0
    low, middle, gone = axis.clip([0.0, 10.0, math.nan])
    assert (low, middle) == (axis.low, 10.0) and math.isnan(gone)


def test_a_given_range_holds() -> None:
    axis = y_axis(panel([0.0], [5.0], y_axis="log", range_y=(2.0, 200.0)))
    assert axis is not None
    assert (axis.low, axis.high) == (2.0, 200.0)
    assert list(axis.texts) == ["2", "5", "10", "20", "50", "100", "200"]
