"""Means, t intervals, pairing, the verdict: hand-worked, against scipy, and on planted truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis.frame import COLUMNS, EXTRA
from analysis.stats import by_seed, endpoint_values, estimate, paired_difference
from analysis.verdict import verdict

CONFIG: dict[str, Any] = {
    "endpoint": "early_stop",
    "verdict_against": "random_reinit",
    "verdict_density": [0.02, 0.10],
}


def planted(
    ticket: dict[int, list[float]], reinit: dict[int, list[list[float]]], density: dict[int, float]
) -> pd.DataFrame:
    """A tidy table: accuracies by level and seed; the control's also by draw."""
    rows = []
    for level, values in ticket.items():
        for seed, value in enumerate(values):
            rows.append(_row(level, seed, "ticket", 0, value, density[level]))
            for draw, own in enumerate(reinit.get(level, [[]] * len(values))[seed]):
                rows.append(_row(level, seed, "random_reinit", draw, own, density[level]))
    return pd.DataFrame(rows, columns=[*COLUMNS, *EXTRA])


def _row(level: int, seed: int, variant: str, draw: int, value: float, density: float) -> Any:
    return {
        **dict.fromkeys(COLUMNS),
        "run_id": "r",
        "seed": seed,
        "variant": variant,
        "draw": draw,
        "level": level,
        "density": density,
        "early_stop_test_accuracy": value,
        "final_test_accuracy": value,
        "engine": "loop",
        "device": "cpu",
        "precision": "fp32",
        "status": "done",
        "num_classes": 10,
        "numerics": '{"device": "cpu", "num_threads": 1}',
    }


def test_the_interval_worked_by_hand() -> None:
    # mean 2, s = 1, n = 3, t(0.975, 2) = 4.302653: half = 4.302653 / sqrt(3) = 2.484138
    result = estimate([1.0, 2.0, 3.0])
    assert result.mean == 2.0
    assert result.n == 3
    assert result.half == pytest.approx(2.484138, abs=1e-6)


def test_the_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.95, 0.90, 0.97, 0.92]
    low, high = scipy_stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=scipy_stats.sem(values)
    )
    result = estimate(values)
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert math.isnan(estimate([0.5]).low)
    assert estimate([0.5]).mean == 0.5
    assert estimate([]).n == 0


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_at_its_nominal_rate(n: int) -> None:
    trials = 2000
    draws = np.random.default_rng(n).normal(size=(trials, n))
    covered = sum(e.low <= 0 <= e.high for e in map(estimate, draws.tolist()))
    # Three standard errors of a binomial with p = 0.95.
    assert abs(covered / trials - 0.95) < 3 * math.sqrt(0.95 * 0.05 / trials)


def test_draws_are_averaged_within_their_seed_first() -> None:
    data = planted({1: [0.9, 0.8]}, {1: [[0.7, 0.9], [0.6]]}, {1: 0.05})
    table = by_seed(data, "early_stop")
    assert table["random_reinit"].tolist() == pytest.approx([0.8, 0.6])
    difference = paired_difference(data, "early_stop", "random_reinit")
    assert difference.tolist() == pytest.approx([0.1, 0.2])


def test_a_diverged_training_enters_at_chance() -> None:
    data = planted({1: [0.9, 0.8]}, {1: [[0.7], [0.6]]}, {1: 0.05})
    data.loc[1, "status"] = "diverged"
    assert endpoint_values(data, "early_stop")[1] == pytest.approx(0.1)
    assert "1 of 4 trainings diverged and enter at chance" in verdict(data, CONFIG)


def test_a_better_ticket_wins_with_its_numbers() -> None:
    data = planted(
        {1: [0.5, 0.5, 0.5], 2: [0.92, 0.93, 0.94]},
        {1: [[0.9], [0.9], [0.9]], 2: [[0.90], [0.90], [0.90]]},
        {1: 0.5, 2: 0.05},
    )
    # Level 1 (density 0.5) lies outside the range that was fixed before the run.
    text = verdict(data, CONFIG)
    assert "3.00 points more accurate than random_reinit" in text
    assert "+0.52 to +5.48, n = 3 seeds" in text
    assert text.endswith("the ticket wins.")
    assert "(level 2)" in text


def test_a_worse_ticket_loses_and_an_equal_one_cannot_be_told() -> None:
    worse = planted({1: [0.8, 0.81, 0.82]}, {1: [[0.9], [0.91], [0.93]]}, {1: 0.05})
    assert verdict(worse, CONFIG).endswith("random_reinit wins.")
    equal = planted({1: [0.8, 0.9, 0.85]}, {1: [[0.9], [0.8], [0.85]]}, {1: 0.05})
    assert verdict(equal, CONFIG).endswith("the interval covers 0, so this run cannot tell.")


def test_one_seed_says_that_there_is_no_interval() -> None:
    data = planted({1: [0.8]}, {1: [[0.7]]}, {1: 0.05})
    assert "one seed: there is no interval" in verdict(data, CONFIG)


def test_levels_are_averaged_per_seed_and_incomplete_seeds_are_named() -> None:
    data = planted(
        {1: [0.9, 0.9, 0.9], 2: [0.8, 0.8]},
        {1: [[0.8], [0.8], [0.8]], 2: [[0.6], [0.7]]},
        {1: 0.09, 2: 0.03},
    )
    text = verdict(data, CONFIG)
    # Seeds 0 and 1: (0.1 + 0.2) / 2 and (0.1 + 0.1) / 2, mean 0.125.
    assert "12.50 points more" in text
    assert "n = 2 seeds" in text
    assert "left out because they lack some of these levels: 1." in text


def test_a_seed_that_diverged_before_the_verdicts_levels_is_named() -> None:
    """Its later levels were never trained: the pair is not dropped silently."""
    data = planted(
        {0: [0.9] * 3, 1: [0.9, 0.91, 0.1], 2: [0.92, 0.93]},
        {1: [[0.8]] * 3, 2: [[0.8], [0.82]]},
        {0: 1.0, 1: 0.5, 2: 0.05},
    )
    data.loc[(data["level"] == 1) & (data["seed"] == 2), "status"] = "diverged"
    text = verdict(data, CONFIG)
    assert "n = 2 seeds" in text
    assert "left out because they lack some of these levels: 1." in text


def test_other_controls_are_not_told_of_in_the_verdict() -> None:
    data = planted({1: [0.9, 0.91, 0.92]}, {1: [[0.8]] * 3}, {1: 0.05})
    other = data[data["variant"] == "random_reinit"].assign(
        variant="other", status="diverged", numerics="{}"
    )
    text = verdict(pd.concat([data, other], ignore_index=True), CONFIG)
    assert text.endswith("the ticket wins.")


def test_levels_without_a_control_are_not_named() -> None:
    data = planted({1: [0.9, 0.9], 2: [0.8, 0.8]}, {2: [[0.6], [0.7]]}, {1: 0.09, 2: 0.03})
    assert "(level 2)" in verdict(data, CONFIG)


def test_without_a_control_there_is_no_verdict() -> None:
    assert verdict(planted({1: [0.9]}, {}, {1: 0.05}), CONFIG).startswith("No verdict")


def test_the_planted_verdict_is_right_at_its_rate() -> None:
    random = np.random.default_rng(0)
    wins = 0
    for _ in range(200):
        noise = random.normal(scale=0.01, size=(2, 5))
        data = planted(
            {1: (0.9 + noise[0]).tolist()}, {1: [[v] for v in 0.9 + noise[1]]}, {1: 0.05}
        )
        wins += "wins" in verdict(data, CONFIG)
    # Equal in truth: 5 % of verdicts are wrong; 200 trials, three standard errors.
    assert wins / 200 < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_pairs_with_different_numerics_are_flagged() -> None:
    data = planted({1: [0.9, 0.8]}, {1: [[0.7], [0.6]]}, {1: 0.05})
    data.loc[0, "numerics"] = '{"device": "cpu", "num_threads": 2}'
    assert "In 1 of 2 pairs the sides differ in numerics (num_threads)." in verdict(data, CONFIG)
