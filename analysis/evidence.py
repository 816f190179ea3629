"""Everything that tables, reports and dashboards show of one run. Accuracies are fractions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.early_stop import early_stops
from analysis.frame import frame
from analysis.matching import best_level, matching, matching_range
from analysis.stats import at_level, bca, by_seed, estimate, paired_difference
from analysis.verdict import verdict
from analysis.words import brought
from lth.config import RunConfig
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The statistics of one run, from the store alone.

    ``settings``: ``endpoint``, ``verdict_against`` and ``verdict_density``, fixed
    before the run. ``trainings``: the tidy table. ``accuracy``: one row per
    (level, variant). ``difference``: ticket minus each control, one row per
    (level, against), with simultaneous bands over the levels, the same without
    diverged trainings, and how many pairs differ in numerics. ``early_stop``,
    ``matching``, ``matching_range``, ``best``: see the functions of these names.
    ``cost``: updates and seconds per (level, variant), means over seeds.
    """

    run_id: str
    settings: dict[str, Any]
    trainings: pd.DataFrame
    accuracy: pd.DataFrame
    difference: pd.DataFrame
    early_stop: pd.DataFrame
    matching: pd.DataFrame
    matching_range: pd.DataFrame
    best: dict[str, Any] | None
    cost: pd.DataFrame
    verdict: str

    @property
    def diverged(self) -> int:
        """How many trainings diverged."""
        return int((self.trainings["status"] == "diverged").sum())

    @property
    def variants(self) -> list[str]:
        """The ticket, then the others by name."""
        return ["ticket", *sorted(set(self.trainings["variant"]) - {"ticket"})]


def settings(folder: RunFolder) -> dict[str, Any]:
    """The verdict's settings of a run: those in its config, else the defaults."""
    default = RunConfig()
    config = folder.config()
    names = ("endpoint", "verdict_against", "verdict_density")
    return {n: config.get(n, getattr(default, n)) for n in names}


def evidence(folder: RunFolder, data: pd.DataFrame | None = None) -> Evidence:
    """The evidence of a run; ``data`` is its tidy table where that is read already.

    DamagedError names a stored file that is missing or damaged.
    """
    data = frame([folder]) if data is None else data
    store = FileStore(folder.store_root)

    def curve(row: pd.Series) -> list[dict[str, Any]]:
        stored = store.peek(row["training"])
        assert stored is not None
        return stored.metrics()

    config = folder.config()
    final = (config.get("rewind") or {}).get("weights", "rewound") == "final"
    final |= bool((brought(config) or {}).get("final"))
    return assemble(folder.run_id, data, settings(folder), rewound=not final, curve=curve)


def assemble(
    run_id: str, data: pd.DataFrame, config: dict[str, Any], *, rewound: bool, curve: Any = None
) -> Evidence:
    """The evidence in a tidy table. ``rewound``: tickets start from theta_0 or theta_k."""
    endpoint = config["endpoint"]
    table = matching(data, endpoint, rewound=rewound)
    return Evidence(
        run_id=run_id,
        settings=config,
        trainings=data,
        accuracy=accuracy(data, endpoint),
        difference=differences(data, endpoint),
        early_stop=early_stops(data, endpoint, curve),
        matching=table,
        matching_range=matching_range(table),
        best=best_level(data, endpoint),
        cost=cost(data),
        verdict=verdict(data, config),
    )


def accuracy(data: pd.DataFrame, endpoint: str) -> pd.DataFrame:
    """Test accuracy per (level, variant): mean and t interval over seeds.

    ``spread`` is the mean over seeds of the SD between a control's draws.
    """
    values = by_seed(data, endpoint)
    rows = []
    for level, variant, part in _cells(data):
        known = values.loc[[level], variant].dropna() if variant in values else []
        result = estimate([float(v) for v in known])
        draws = part.groupby("seed")[f"{endpoint}_test_accuracy"].std(ddof=1)
        rows.append(
            {
                "level": level,
                "variant": variant,
                "density": part["density"].mean(),
                "mean": result.mean,
                "low": result.low,
                "high": result.high,
                "n": result.n,
                "spread": draws.mean(),
                "diverged": int((part["status"] == "diverged").sum()),
                "trainings": len(part),
            }
        )
    return pd.DataFrame(rows)


def differences(data: pd.DataFrame, endpoint: str) -> pd.DataFrame:
    """Ticket minus each control, paired by seed, one row per (level, against)."""
    columns = ["level", "against", "density", "mean", "low", "high", "n"]
    columns += ["band_low", "band_high", "bca_low", "bca_high", "mean_without_diverged"]
    columns += ["low_without_diverged", "high_without_diverged", "n_without_diverged"]
    rows = []
    for against in sorted(set(data["variant"]) - {"ticket"}):
        paired = paired_difference(data, endpoint, against)
        rest = paired_difference(data, endpoint, against, diverged=False)
        levels = sorted(set(paired.index.get_level_values("level"))) if len(paired) else []
        for level in levels:
            values = at_level(paired, level)
            result, band = estimate(values), estimate(values, among=len(levels))
            without = estimate(at_level(rest, level))
            part = data[(data["level"] == level) & data["variant"].isin(["ticket", against])]
            low, high = bca(values)
            rows.append(
                {
                    "level": level,
                    "against": against,
                    "density": part[part["variant"] == "ticket"]["density"].mean(),
                    "mean": result.mean,
                    "low": result.low,
                    "high": result.high,
                    "n": result.n,
                    "band_low": band.low,
                    "band_high": band.high,
                    "bca_low": low,
                    "bca_high": high,
                    "mean_without_diverged": without.mean,
                    "low_without_diverged": without.low,
                    "high_without_diverged": without.high,
                    "n_without_diverged": without.n,
                    "numerics_differ": int((part.groupby("seed")["numerics"].nunique() > 1).sum()),
                }
            )
    return pd.DataFrame(rows, columns=[*columns, "numerics_differ"])


def cost(data: pd.DataFrame) -> pd.DataFrame:
    """Updates and seconds per (level, variant): means over seeds and draws."""
    rows = []
    for level, variant, part in _cells(data):
        steps = (part["end_step"] - part["start_step"]).mean()
        search = part["search_steps"].mean()
        rows.append(
            {
                "level": level,
                "variant": variant,
                "density": part["density"].mean(),
                "search_steps": search,
                "train_steps": steps,
                "total_steps": search + steps,
                "seconds": part["train_seconds"].mean(),
            }
        )
    return pd.DataFrame(rows)


def _cells(data: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    for (level, variant), part in data.groupby(["level", "variant"]):
        yield int(level), str(variant), part
