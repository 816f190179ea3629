"""Steps: what is read, what is refused, and how epochs are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth.step import Step, resolve


@pytest.mark.parametrize(
    ("text", "epochs", "iterations"),
    [
        ("500it", 0, 500),
        ("3ep", 3, 0),
        ("1ep30it", 1, 30),
        ("0it", 0, 0),
        (" 2ep ", 2, 0),
        (0, 0, 0),
        (Step(1, 2), 1, 2),
    ],
)
def test_parse(text: Any, epochs: int, iterations: int) -> None:
    assert Step.parse(text) == Step(epochs=epochs, iterations=iterations)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "it",
        "ep",
        "500",
        "500 it",
        "30it1ep",
        "1.5ep",
        "-1it",
        "1e3it",
        "5s",
        "1it1it",
        "0",
        "all",
        5,
        1.0,
        0.0,
        True,
        False,
        None,
    ],
)
def test_refuses(text: Any) -> None:
    with pytest.raises(ValueError, match="allowed: a step such as 500it, 3ep or 1ep30it"):
        Step.parse(text)


@given(epochs=st.integers(0, 999), iterations=st.integers(0, 99999))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_round_trip(epochs: int, iterations: int) -> None:
    step = Step(epochs, iterations)
    assert Step.parse(str(step)) == step
    assert step.updates(7) == 7 * epochs + iterations


def test_text() -> None:
    assert [str(Step(*s)) for s in [(0, 0), (0, 5), (2, 0), (2, 5)]] == [
        "0it",
        "5it",
        "2ep",
        "2ep5it",
    ]


@dataclass(frozen=True)
class Timed:
    at: Step
    several: tuple[Step, ...]
    listed: list[Step]
    other: float = 0.5
    derived: int = field(init=False, default=0)


def test_resolve_counts_epochs() -> None:
    timed = Timed(Step(1, 2), (Step(2), Step(0, 3)), [Step(1)])
    resolved = resolve(timed, 10)
    assert resolved == Timed(Step(0, 12), (Step(0, 20), Step(0, 3)), [Step(0, 10)])
    assert timed.at == Step(1, 2)
    assert resolve(len, 10) is len
    assert resolve(Timed, 10) is Timed
