"""``python -m analysis.compare RUN... [--csv FILE]``: tickets against controls, by density."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.frame import COLUMNS, LocateError, frame, locate
from analysis.stats import Estimate, by_seed, estimate, paired_difference, verdict
from lth.config import RunConfig
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError


def settings(folder: RunFolder) -> dict[str, Any]:
    """The verdict's settings of a run: those in its config, else the defaults."""
    default = RunConfig()
    config = folder.config()
    names = ("endpoint", "verdict_against", "verdict_density")
    return {n: config.get(n, getattr(default, n)) for n in names}


def table(data: pd.DataFrame, config: dict[str, Any]) -> str:
    """One row per density: accuracies in percent with 95 % half-widths over seeds."""
    endpoint, against = config["endpoint"], config["verdict_against"]
    values = by_seed(data, endpoint)
    variants = ["ticket", *sorted(set(data["variant"]) - {"ticket"})]
    difference = paired_difference(data, endpoint, against)
    rows = []
    for level, part in data.groupby("level"):
        tickets = part[part["variant"] == "ticket"]
        row = {
            "level": level,
            "density %": f"{100 * tickets['density'].mean():.2f}",
            "weights": f"{tickets['remaining_weights'].mean():,.0f}",
            "n": len(tickets),
        }
        for variant in variants:
            known = values.loc[[level], variant].dropna() if variant in values else []
            row[variant] = _cell(estimate(list(known)), signed=False)
        own = difference.loc[[level]] if level in difference.index.get_level_values(0) else []
        row[f"ticket - {against}"] = _cell(estimate(list(own)), signed=True)
        row["early stop (ticket)"] = _early_stop(tickets)
        diverged = int((part["status"] == "diverged").sum())
        if (data["status"] == "diverged").any():
            row["diverged"] = f"{diverged} of {len(part)}"
        rows.append(row)
    shown = pd.DataFrame(rows)
    title = (
        f"Test accuracy in % at {endpoint}, mean and 95 % interval over seeds "
        f"(draws averaged within their seed)"
    )
    return f"{title}\n{shown.to_string(index=False)}"


def summary(folder: RunFolder, data: pd.DataFrame) -> str:
    """The table and the verdict of one run."""
    config = settings(folder)
    return f"{table(data, config)}\n\n{verdict(data, config)}"


def write_report(folder: RunFolder) -> str:
    """Print-ready summary of a run; the same and the tidy CSV go to its report folder."""
    data = frame([folder])
    text = summary(folder, data)
    folder.report.mkdir(parents=True, exist_ok=True)
    data[COLUMNS].to_csv(folder.report / "compare.csv", index=False)
    (folder.report / "compare.txt").write_text(text + "\n")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every run's table; 0 done, 1 a stored file is damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.compare", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write one tidy table")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    options = parser.parse_args(arguments)
    try:
        folders = locate(options.run, options.store)
        data = frame(folders)
        if data.empty:
            raise LocateError(
                "RUN: no stored trainings yet, allowed: a run with finished trainings"
            )
        for folder in folders:
            print(f"run {folder.run_id}")
            print(summary(folder, data[data["run_id"] == folder.run_id]), end="\n\n")
        if options.csv is not None:
            data[COLUMNS].to_csv(options.csv, index=False)
            print(f"{len(data)} rows in {options.csv}")
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"--csv: {error}", file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}; run the same lth.run command to recompute", file=sys.stderr)
        return 1
    return 0


def _cell(value: Estimate, *, signed: bool) -> str:
    if value.n == 0:
        return "-"
    mean = f"{100 * value.mean:+.2f}" if signed else f"{100 * value.mean:.2f}"
    return mean if value.n < 2 else f"{mean} +- {100 * value.half:.2f}"


def _early_stop(tickets: pd.DataFrame) -> str:
    known = tickets["early_stop_step"].dropna()
    if known.empty:
        return "-"
    censored = int(tickets["early_stop_censored"].fillna(False).astype(bool).sum())
    return f"{known.median():.0f} ({censored} of {len(tickets)} censored)"


if __name__ == "__main__":
    sys.exit(main())
