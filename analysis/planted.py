"""``python -m analysis.planted``: how often the statistics are right where the truth is known."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.evidence import differences
from analysis.frame import COLUMNS, EXTRA
from analysis.matching import matching
from analysis.stats import bca, estimate
from analysis.verdict import verdict

SETTINGS = {
    "endpoint": "early_stop",
    "verdict_against": "random_reinit",
    "verdict_density": [0.02, 0.10],
}
SD_SEED, SD_TRAINING = 0.004, 0.003
"""Spread between seeds (shared by all variants of a seed) and of a single training."""


def planted(
    rng: np.random.Generator,
    *,
    seeds: int,
    gap: float,
    densities: Sequence[float] = (1.0, 0.2, 0.08, 0.04),
    draws: int = 2,
    loss: float = 0.0,
) -> pd.DataFrame:
    """A tidy table of a run in which the ticket is truly ``gap`` better than reinit.

    ``loss`` is what a ticket is truly worse than dense at every level.
    """
    rows = []
    shared = 0.97 + SD_SEED * rng.standard_normal(seeds)
    for seed in range(seeds):
        for level, density in enumerate(densities):
            own = shared[seed] - (loss if level else 0.0)
            truth = {"ticket": [own], "random_reinit": [own - gap] * draws}
            for variant, values in truth.items() if level else [("ticket", [own])]:
                for draw, value in enumerate(values):
                    measured = value + SD_TRAINING * rng.standard_normal()
                    rows.append(_row(seed, level, density, variant, draw, measured))
    return pd.DataFrame(rows, columns=[*COLUMNS, *EXTRA])


def _row(
    seed: int, level: int, density: float, variant: str, draw: int, value: float
) -> Mapping[str, object]:
    return {
        **dict.fromkeys([*COLUMNS, *EXTRA]),
        "run_id": "planted",
        "seed": seed,
        "variant": variant,
        "draw": draw,
        "level": level,
        "density": density,
        "early_stop_test_accuracy": value,
        "early_stop_val_accuracy": value,
        "early_stop_step": 100,
        "early_stop_censored": False,
        "status": "done",
        "num_classes": 10,
        "numerics": "{}",
    }


def rates(repeats: int, seeds: int) -> Iterator[tuple[str, float, str]]:
    """``(what, share of repeats, what it should be)`` for runs of ``seeds`` seeds."""
    rng = np.random.default_rng(seeds)
    spread = rng.standard_normal((repeats, seeds))
    yield "paired t interval covers the truth", _share(_covers(x) for x in spread), "0.95"
    for gap, wanted in ((0.0, "0.05 or less"), (0.005, "high"), (-0.005, "high")):
        words = {0.0: "", 0.005: "the ticket wins", -0.005: "random_reinit wins"}[gap]
        texts = [verdict(planted(rng, seeds=seeds, gap=gap), SETTINGS) for _ in range(repeats)]
        told = _share("cannot tell" not in t if gap == 0 else words in t for t in texts)
        name = "a difference is claimed" if gap == 0 else f"the verdict is '{words}'"
        yield f"gap {100 * gap:+.1f} points: {name}", told, wanted
    yield "simultaneous bands cover at every level", _joint(rng, repeats, seeds), "0.95 or more"
    yield (
        "ticket 0.5 points worse than dense: called matching within 0.2 points",
        _matching(rng, repeats, seeds),
        "0.025 or less a level",
    )
    if seeds >= 20:
        covered = ((low <= 0 <= high) for low, high in map(bca, spread[:200]))
        yield "BCa interval covers the truth (200 repeats)", _share(covered), "0.95"


def _covers(x: np.ndarray) -> bool:
    interval = estimate(list(x))
    return interval.low <= 0 <= interval.high


def _joint(rng: np.random.Generator, repeats: int, seeds: int) -> float:
    def all_levels() -> bool:
        table = differences(planted(rng, seeds=seeds, gap=0.005), "early_stop")
        return bool(((table["band_low"] <= 0.005) & (table["band_high"] >= 0.005)).all())

    return _share(all_levels() for _ in range(repeats))


def _matching(rng: np.random.Generator, repeats: int, seeds: int) -> float:
    def wrong() -> float:
        table = matching(planted(rng, seeds=seeds, gap=0, loss=0.005), "early_stop", rewound=True)
        rows = table[table["tolerance"] == "0.2 points"]
        return float((rows["state"] == "matching").mean())

    return float(np.mean([wrong() for _ in range(repeats)]))


def _share(hits: Iterator[bool]) -> float:
    return float(np.mean(list(hits)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rates for 3, 5, 10 and 20 seeds."""
    parser = argparse.ArgumentParser(prog="python -m analysis.planted", description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    options = parser.parse_args(arguments)
    if options.repeats < 1:
        print(f"--repeats: got {options.repeats}, allowed: 1 or more", file=sys.stderr)
        return 2
    for seeds in (3, 5, 10, 20):
        print(f"{seeds} seeds, {options.repeats} planted runs")
        for what, share, wanted in rates(options.repeats, seeds):
            print(f"  {share:6.3f}  {what}  (should be {wanted})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
