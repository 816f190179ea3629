"""Counts: exact, rounded once, and solved for a total."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lth.allocation.budget import pruned, solve


@pytest.mark.parametrize(
    ("survivors", "rate", "times", "expected"),
    [
        (100, 0.2, 1, 20),
        (0, 0.5, 1, 0),
        (7, 0.2, 1, 1),  # 1.4
        (8, 0.2, 1, 2),  # 1.6
        (5, 0.1, 1, 0),  # 0.5: halves go to the even neighbour
        (15, 0.1, 1, 2),  # 1.5
        (235_200, 0.2, 1, 47_040),
        (1000, 0.2, 2, 360),  # 1 - 0.8^2
        (1000, 0.1, 3, 271),  # 1 - 0.9^3
        (1000, 0.0, 5, 0),
    ],
)
def test_pruned(survivors: int, rate: float, times: int, expected: int) -> None:
    assert pruned(survivors, rate, times) == expected


@pytest.mark.parametrize(
    ("survivors", "rates", "keep", "expected"),
    [
        # t = 1: 80 of 100 and 90 of 100
        ({"a": 100, "b": 100}, {"a": 0.2, "b": 0.1}, 170, {"a": 80, "b": 90}),
        # t = 2: 64 and 81
        ({"a": 100, "b": 100}, {"a": 0.2, "b": 0.1}, 145, {"a": 64, "b": 81}),
        # what rounding leaves goes to the largest remainder, ties to the earlier layer
        ({"a": 3, "b": 3, "c": 3}, {"a": 0.5, "b": 0.5, "c": 0.5}, 4, {"a": 2, "b": 1, "c": 1}),
        ({"a": 10, "b": 10}, {"a": 0.5, "b": 0.0}, 12, {"a": 2, "b": 10}),
        ({"a": 10, "b": 10}, {"a": 0.5, "b": 0.0}, 10, {"a": 0, "b": 10}),
        ({"a": 10, "b": 10}, {"a": 0.5, "b": 0.1}, 20, {"a": 10, "b": 10}),
        ({"a": 10, "b": 10}, {"a": 0.5, "b": 0.1}, 0, {"a": 0, "b": 0}),
    ],
)
def test_solve(
    survivors: dict[str, int], rates: dict[str, float], keep: int, expected: dict[str, int]
) -> None:
    assert solve(survivors, rates, keep) == expected


@pytest.mark.parametrize("keep", [9, 21, -1])
def test_solve_refuses_what_no_rate_reaches(keep: int) -> None:
    with pytest.raises(ValueError, match=f"cannot keep {keep} of 20 weights: 10 are never pruned"):
        solve({"a": 10, "b": 10}, {"a": 0.5, "b": 0.0}, keep)


@given(
    layers=st.lists(
        st.tuples(st.integers(0, 5000), st.sampled_from([0.0, 0.01, 0.1, 0.2, 0.9])),
        min_size=1,
        max_size=6,
    ),
    share=st.floats(0, 1),
)
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_solve_meets_the_total(layers: list[tuple[int, float]], share: float) -> None:
    survivors = {str(i): n for i, (n, _) in enumerate(layers)}
    rates = {str(i): rate for i, (_, rate) in enumerate(layers)}
    floor = sum(n for n, rate in layers if rate == 0)
    keep = floor + round(share * (sum(survivors.values()) - floor))
    counts = solve(survivors, rates, keep)
    assert sum(counts.values()) == keep
    for name, n in survivors.items():
        assert 0 <= counts[name] <= n
        assert rates[name] > 0 or counts[name] == n
    for a in survivors:
        for b in survivors:
            if survivors[a] == survivors[b] and rates[a] > rates[b]:
                assert counts[a] <= counts[b] + 1
