"""Matching, winning, early stops, bands, cost: hand-worked, and right on planted truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis.compare import summary
from analysis.early_stop import early_stops, log_ratios
from analysis.evidence import Evidence, assemble, differences
from analysis.frame import COLUMNS, EXTRA
from analysis.matching import best_level, matching, matching_range
from analysis.planted import SETTINGS, planted
from analysis.stats import BCA_FROM, Estimate, bca, estimate, three_way
from analysis.verdict import verdict


def rows(*given: dict[str, Any]) -> pd.DataFrame:
    """A tidy table: seed 0, ticket, draw 0, done, unless said otherwise."""
    usual = {
        **dict.fromkeys([*COLUMNS, *EXTRA]),
        "run_id": "r",
        "variant": "ticket",
        "draw": 0,
        "seed": 0,
        "status": "done",
        "num_classes": 10,
        "numerics": "{}",
        "early_stop_censored": False,
    }
    return pd.DataFrame([usual | g for g in given], columns=[*COLUMNS, *EXTRA])


def ladder(levels: dict[int, list[float]], validation: dict[int, list[float]] | None = None) -> Any:
    """Test (and validation) accuracy of tickets by level and seed; density 0.5 ** level."""
    return rows(
        *(
            {
                "level": level,
                "seed": seed,
                "density": 0.5**level,
                "early_stop_test_accuracy": value,
                "early_stop_val_accuracy": (validation or levels)[level][seed],
                "early_stop_step": 100 - 10 * level,
            }
            for level, values in levels.items()
            for seed, value in enumerate(values)
        )
    )


def test_three_ways() -> None:
    assert three_way(Estimate(0.0, -0.001, 0.001, 3), 0.002) == "yes"
    assert three_way(Estimate(0.0, -0.002, 0.001, 3), 0.002) == "yes"  # at least -e
    assert three_way(Estimate(-0.01, -0.02, -0.003, 3), 0.002) == "no"
    assert three_way(Estimate(-0.01, -0.02, -0.002, 3), 0.002) == "undecided"
    assert three_way(estimate([0.5]), 0.002) == "undecided"


def test_bonferroni_intervals_worked_by_hand() -> None:
    # mean 2, s = 1, n = 3, four intervals: t(1 - 0.025 / 4, 2) = 8.860
    band = estimate([1.0, 2.0, 3.0], among=4)
    assert band.high - 2 == pytest.approx(scipy_stats.t.ppf(1 - 0.025 / 4, 2) / math.sqrt(3))
    assert band.high - 2 == pytest.approx(8.860 / math.sqrt(3), rel=1e-3)


def test_matching_and_its_range() -> None:
    dense = [0.90, 0.91, 0.92]  # SD 0.01
    shift = {1: 0.003, 2: -0.0075, 3: -0.05}
    noise = [0.0005, 0.0, -0.0005]  # t half-width 0.0012
    data = ladder(
        {0: dense}
        | {k: [d + s + e for d, e in zip(dense, noise, strict=True)] for k, s in shift.items()}
    )
    table = matching(data, "early_stop", rewound=True)
    states = {(r.tolerance, r.level): r.state for r in table.itertuples()}
    assert states["1 SD of 3 dense seeds", 1] == "matching"
    assert states["1 SD of 3 dense seeds", 2] == "matching"  # -0.0087 >= -0.01
    assert states["1 SD of 3 dense seeds", 3] == "not matching"
    assert [states["0.2 points", i] for i in (1, 2, 3)] == ["matching", *2 * ["not matching"]]
    assert states["0", 1] == "matching"
    ends = matching_range(table).set_index("tolerance")
    one = ends.loc["1 SD of 3 dense seeds"]
    assert one["epsilon"] == pytest.approx(0.01)
    assert one["sparsest_certain"] == one["sparsest_before_failure"] == one["point_rule"] == 0.25
    assert one["certain_test_difference"] == pytest.approx(-0.0075)
    assert ends.loc["0", "sparsest_certain"] == 0.5


def test_an_undecided_level_ends_what_is_certain_but_not_what_is_possible() -> None:
    dense = [0.90, 0.90, 0.90]
    data = ladder({0: dense, 1: [0.93, 0.90, 0.87], 2: [0.91] * 3, 3: [0.5] * 3})
    ends = matching_range(matching(data, "early_stop", rewound=True)).set_index("tolerance")
    assert math.isnan(ends.loc["0.2 points", "sparsest_certain"])
    assert ends.loc["0.2 points", "sparsest_before_failure"] == 0.25


def test_levels_are_chosen_on_validation_and_reported_on_test() -> None:
    test = {0: [0.9, 0.9], 1: [0.95, 0.95], 2: [0.80, 0.82]}
    validation = {0: [0.9, 0.9], 1: [0.85, 0.85], 2: [0.93, 0.93]}
    data = ladder(test, validation)
    best = best_level(data, "early_stop")
    assert best is not None and best["level"] == 2
    assert best["mean"] == pytest.approx(0.81)
    table = matching(data, "early_stop", rewound=True)
    zero = table[table["tolerance"] == "0"].set_index("level")
    assert zero.loc[1, "state"] == "matching" and zero.loc[1, "selected"] == "not matching"
    assert math.isnan(matching_range(table).set_index("tolerance").loc["0", "sparsest_certain"])


@pytest.mark.parametrize(
    ("accuracy", "steps", "censored", "state"),
    [
        ([0.95, 0.951, 0.952], [50, 51, 52], False, "winning"),
        ([0.95, 0.951, 0.952], [150, 151, 152], False, "not winning"),  # later
        ([0.80, 0.801, 0.802], [50, 51, 52], False, "not winning"),  # less accurate
        ([0.95, 0.951, 0.952], [50, 100, 200], False, "undecided"),
        ([0.95, 0.951, 0.952], [50, 51, 52], True, "undetermined"),
    ],
)
def test_winning(accuracy: list[float], steps: list[int], censored: bool, state: str) -> None:
    data = ladder({0: [0.9, 0.9, 0.9], 1: accuracy})
    chosen = data["level"] == 1
    data.loc[chosen, "early_stop_step"] = steps
    data.loc[chosen & (data["seed"] == 2), "early_stop_censored"] = censored
    table = matching(data, "early_stop", rewound=True)
    assert table[table["tolerance"] == "0"]["winning"].tolist() == [state]
    other = matching(data, "early_stop", rewound=False)
    assert set(other["winning"]) == {"not defined"}


def test_winning_is_undetermined_where_dense_is_censored() -> None:
    """Such a seed has no ratio; without it the rest would look as if it were all."""
    data = ladder({0: [0.9, 0.9, 0.9], 1: [0.95, 0.951, 0.952]})
    data.loc[data["level"] == 1, "early_stop_step"] = [50, 51, 52]
    data.loc[(data["level"] == 0) & (data["seed"] == 2), "early_stop_censored"] = True
    table = matching(data, "early_stop", rewound=True)
    assert table[table["tolerance"] == "0"]["winning"].tolist() == ["undetermined"]


def test_ratios_are_bounds_where_the_numerator_is_censored_and_undefined_below() -> None:
    data = rows(
        {"level": 0, "seed": 0, "early_stop_step": 100},
        {"level": 0, "seed": 1, "early_stop_step": 100},
        {"level": 0, "seed": 2, "early_stop_step": 300, "early_stop_censored": True},
        {"level": 1, "seed": 0, "early_stop_step": 50},
        {"level": 1, "seed": 1, "early_stop_step": 200, "early_stop_censored": True},
        {"level": 1, "seed": 2, "early_stop_step": 50},
    )
    ratios, censored = log_ratios(data, 1, "ticket")
    assert ratios == pytest.approx([math.log(0.5), math.log(2)])
    assert censored == 1
    row = early_stops(data, "early_stop").set_index("level").loc[1]
    assert row["ratio_to_dense"] == pytest.approx(1.0)
    assert row["ratio_n"] == 2 and bool(row["ratio_bound"]) and math.isnan(row["ratio_high"])
    assert row["median"] == 50 and row["censored"] == 1 and row["trainings"] == 3


def test_steps_to_reach_the_accuracy_of_dense() -> None:
    data = rows(
        {
            "level": 0,
            "seed": 0,
            "early_stop_step": 9,
            "early_stop_val_accuracy": 0.8,
            "training": "d",
        },
        {"level": 1, "seed": 0, "early_stop_step": 9, "training": "quick"},
        {"level": 2, "seed": 0, "early_stop_step": 9, "training": "never"},
    )
    curves = {
        "d": [(0, 0.1), (10, 0.7), (20, 0.8)],
        "quick": [(0, 0.1), (10, 0.85), (20, 0.7)],
        "never": [(0, 0.1), (20, 0.79)],
    }

    def curve(row: pd.Series) -> list[dict[str, Any]]:
        return [{"step": s, "val_accuracy": a} for s, a in curves[row["training"]]]

    table = early_stops(data, "early_stop", curve).set_index("level")
    assert table.loc[[0, 1], "reach"].tolist() == [20, 10]
    assert math.isnan(table.loc[2, "reach"]) and table.loc[2, "never"] == 1


def test_diverged_trainings_are_at_chance_first_and_left_out_second() -> None:
    data = planted(np.random.default_rng(0), seeds=3, gap=0.01, draws=1)
    victim = (data["level"] == 2) & (data["variant"] == "random_reinit") & (data["seed"] == 0)
    data.loc[victim, "status"] = "diverged"
    table = differences(data, "early_stop").set_index("level")
    assert table.loc[2, "n"] == 3 and table.loc[2, "n_without_diverged"] == 2
    tickets = data[(data["level"] == 2) & (data["variant"] == "ticket")]
    controls = data[(data["level"] == 2) & (data["variant"] == "random_reinit")]
    gaps = (
        tickets["early_stop_test_accuracy"].to_numpy()
        - controls["early_stop_test_accuracy"].to_numpy()
    )
    gaps[0] = tickets["early_stop_test_accuracy"].iloc[0] - 0.1
    assert table.loc[2, "mean"] == pytest.approx(gaps.mean())
    assert table.loc[2, "mean_without_diverged"] == pytest.approx(gaps[1:].mean())


def test_the_bootstrap_is_a_column_from_twenty_seeds_on() -> None:
    values = np.random.default_rng(0).standard_normal(BCA_FROM)
    assert math.isnan(bca(list(values[:-1]))[0])
    low, high = bca(list(values))
    assert low < values.mean() < high
    few = differences(planted(np.random.default_rng(0), seeds=5, gap=0), "early_stop")
    many = differences(planted(np.random.default_rng(0), seeds=20, gap=0), "early_stop")
    assert few["bca_low"].isna().all() and many["bca_low"].notna().all()


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_bands_cover_all_levels_together(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    repeats, covered = 150, 0
    for _ in range(repeats):
        table = differences(planted(rng, seeds=seeds, gap=0.005), "early_stop")
        covered += bool(((table["band_low"] <= 0.005) & (table["band_high"] >= 0.005)).all())
    # Nominal 95 %: fewer than 131 of 150 would happen once in 10,000.
    assert covered >= scipy_stats.binom.ppf(1e-4, repeats, 0.95)


@pytest.mark.parametrize(
    ("gap", "words"), [(0.01, "the ticket wins"), (-0.01, "random_reinit wins")]
)
def test_a_planted_difference_is_found(gap: float, words: str) -> None:
    rng = np.random.default_rng(0)
    told = [verdict(planted(rng, seeds=5, gap=gap), SETTINGS) for _ in range(40)]
    assert sum(words in t for t in told) >= 38
    assert not any("wins" in t and words not in t for t in told)


def test_no_difference_is_claimed_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(1)
    repeats = 200
    told = [verdict(planted(rng, seeds=5, gap=0), SETTINGS) for _ in range(repeats)]
    wrong = sum("wins" in t for t in told)
    assert wrong <= scipy_stats.binom.ppf(1 - 1e-4, repeats, 0.05)


def some_proof() -> Evidence:
    data = planted(np.random.default_rng(0), seeds=3, gap=0.01)
    return assemble(
        "r", data.assign(search_steps=0, start_step=0, end_step=9), SETTINGS, rewound=True
    )


def test_a_table_wider_than_the_terminal_goes_on_below() -> None:
    whole, narrow = summary(some_proof()), summary(some_proof(), 60)
    assert max(map(len, narrow.split("\n"))) <= 60 < max(map(len, whole.split("\n")))
    heads = [line for line in narrow.split("\n") if line.lstrip().startswith("level density %")]
    assert len(heads) > 1
    assert set(narrow.split()) == set(whole.split())


def test_the_summary_names_everything() -> None:
    text = summary(some_proof())
    for part in (
        "the ticket is",
        "Matches dense within 1 SD of 3 dense seeds",
        "Matches dense within 0.2 points",
        "papers' point rule",
        "Best ticket by validation",
        "Winning (early stop no later, accuracy no lower than dense)",
        "Cost per seed: level 3",
    ):
        assert part in text
