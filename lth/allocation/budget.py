"""How many weights a rate leaves: exact counts."""

from __future__ import annotations

from collections.abc import Mapping


def pruned(survivors: int, rate: float, times: int = 1) -> int:
    """``round((1 - (1 - rate) ** times) * survivors)``.

    For ``times = 1`` this is ``round(rate * survivors)``.
    Python's round: halves go to the even neighbour.
    """
    share = rate if times == 1 else 1 - (1 - rate) ** times
    return round(share * survivors)


def solve(survivors: Mapping[str, int], rates: Mapping[str, float], keep: int) -> dict[str, int]:
    """Counts per layer that add up to ``keep`` and follow ``n (1 - rate) ** t`` for one real t.

    t is found by bisection; what rounding leaves over goes to the largest
    remainders, ties to the earlier layer. Raises ValueError where no t >= 0
    reaches ``keep``.
    """
    total = sum(survivors.values())
    floor = sum(n for name, n in survivors.items() if rates[name] == 0)
    if not floor <= keep <= total:
        raise ValueError(f"cannot keep {keep} of {total} weights: {floor} are never pruned")

    def ideal(t: float) -> dict[str, float]:
        return {name: n * (1 - rates[name]) ** t for name, n in survivors.items()}

    low, high = 0.0, 1.0
    while sum(ideal(high).values()) > keep and high < 1e9:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(ideal(middle).values()) > keep else (low, middle)
    shares = ideal(high)
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(
        (name for name in shares if counts[name] < survivors[name]),
        key=lambda name: counts[name] - shares[name],
    )
    for name in by_remainder[: keep - sum(counts.values())]:
        counts[name] += 1
    return counts
