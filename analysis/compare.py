"""``python -m analysis.compare RUN... [--csv FILE]``: tickets against controls, by density."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import Evidence, evidence
from analysis.frame import COLUMNS, LocateError, frame, trained
from analysis.stats import densities
from lth.store.stored import DamagedError


def table(proof: Evidence, width: int | None = None) -> str:
    """One row per density: accuracies in percent with 95 % half-widths over seeds.

    Where ``width`` characters are too few, columns that do not fit follow below.
    """
    against, data = proof.settings["verdict_against"], proof.trainings
    accuracy = proof.accuracy.set_index(["level", "variant"])
    early = proof.early_stop.set_index(["level", "variant"])
    difference = proof.difference[proof.difference["against"] == against].set_index("level")
    density, rows = densities(data), []
    for level, part in data.groupby("level"):
        tickets = part[part["variant"] == "ticket"]
        row = {
            "level": level,
            "density %": f"{100 * density[level]:.2f}",
            "weights": f"{tickets['remaining_weights'].mean():,.0f}" if len(tickets) else "-",
            "n": len(tickets),
        }
        for variant in proof.variants:
            row[variant] = cell(accuracy, (level, variant), signed=False)
        row[f"ticket - {against}"] = cell(difference, level, signed=True)
        row["early stop (ticket)"] = _early_stop(early, (level, "ticket"))
        if proof.diverged:
            diverged = int((part["status"] == "diverged").sum())
            row["diverged"] = f"{diverged} of {len(part)}"
        rows.append(row)
    title = (
        f"Test accuracy in % at {proof.settings['endpoint']}, mean and 95 % interval over seeds "
        f"(draws averaged within their seed)"
    )
    blocks = [b.to_string(index=False) for b in _blocks(pd.DataFrame(rows), width)]
    return f"{_wrapped(title, width)}\n" + "\n\n".join(blocks)


def _blocks(shown: pd.DataFrame, width: int | None) -> list[pd.DataFrame]:
    """The columns in groups of at most ``width`` characters, each with level and density."""
    if width is None:
        return [shown]
    sizes = {c: 1 + max(len(c), *(len(str(v)) for v in shown[c])) for c in shown}
    keys, groups = ["level", "density %"], list[list[str]]()
    room = 0
    for column in shown.columns.drop(keys):
        if sizes[column] > room:
            groups.append(list(keys))
            room = width - sum(sizes[k] for k in keys)
        groups[-1].append(column)
        room -= sizes[column]
    return [shown[group] for group in groups]


def _wrapped(sentence: str, width: int | None) -> str:
    """A sentence in lines of at most ``width`` characters."""
    return sentence if width is None else textwrap.fill(sentence, width, subsequent_indent="  ")


def summary(proof: Evidence, width: int | None = None) -> str:
    """The table, the verdict, and what else the definitions ask for, of one run.

    ``width`` is that of the terminal in characters; None: lines as long as they are.
    """
    lines = [_wrapped(line, width) for line in finding_lines(proof)]
    return "\n".join(
        [table(proof, width), "", _wrapped(proof.verdict, width), *(["", *lines] if lines else [])]
    )


def finding_lines(proof: Evidence) -> list[str]:
    """Matching, the best level, winning and cost, a sentence each."""
    return [*matching_lines(proof), *other_lines(proof)]


def other_lines(proof: Evidence) -> list[str]:
    """The best level, winning and cost."""
    return [*best_lines(proof), *winning_lines(proof), *cost_lines(proof)]


def matching_lines(proof: Evidence) -> list[str]:
    """How sparse a ticket still matches dense, for each tolerance."""
    lines = []
    for row in proof.matching_range.itertuples():
        margin = f" ({100 * row.epsilon:.2f} points)"
        name = row.tolerance if row.epsilon != 0.002 else "0.2 points"
        lines.append(
            f"Matches dense within {name}{margin if 'SD' in name else ''}: certainly down to "
            f"{_density(row.sparsest_certain)}, possibly to "
            f"{_density(row.sparsest_before_failure)}; by the papers' point rule to "
            f"{_density(row.point_rule)}"
        )
    return lines


def best_lines(proof: Evidence) -> list[str]:
    """The level that validation chooses."""
    if proof.best is None:
        return []
    best = proof.best
    half = "" if best["n"] < 2 else f" +- {50 * (best['high'] - best['low']):.2f}"
    return [
        f"Best ticket by validation: level {best['level']} ({_density(best['density'])}), test "
        f"{100 * best['mean']:.2f}{half} %"
    ]


def winning_lines(proof: Evidence) -> list[str]:
    """At which levels tickets win in the sense of 2019, at tolerance 0."""
    table = proof.matching[proof.matching["tolerance"] == "0"]
    if table.empty:
        return []
    if (table["winning"] == "not defined").all():
        return ["Winning (2019): not defined, tickets start from final weights"]
    kinds = ("winning", "not winning", "undecided", "undetermined")
    found = {k: [str(i) for i in table[table["winning"] == k]["level"]] for k in kinds}
    text = "; ".join(f"{k} at level {', '.join(v)}" for k, v in found.items() if v)
    return [f"Winning (early stop no later, accuracy no lower than dense): {text}"]


def cost_lines(proof: Evidence) -> list[str]:
    """What the sparsest ticket cost in all, beside a dense training."""
    cost = proof.cost[proof.cost["variant"] == "ticket"]
    if len(cost) < 2:
        return []
    dense, last = cost.iloc[0], cost.iloc[-1]
    return [
        f"Cost per seed: level {last['level']:.0f} took {last['total_steps']:,.0f} updates "
        f"({last['search_steps']:,.0f} of them to find its mask), dense {dense['total_steps']:,.0f}"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every run's table; 0 done, 1 a stored file is damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.compare", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write one tidy table")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    options = parser.parse_args(arguments)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    try:
        folders = trained(options.run, options.store)
        # One by one: two stores may hold a run of the same name, made by different engines.
        tables = [frame([folder]) for folder in folders]
        for folder, part in zip(folders, tables, strict=True):
            print(f"run {folder.run_id}")
            print(summary(evidence(folder, part), width), end="\n\n")
        if options.csv is not None:
            data = pd.concat(tables, ignore_index=True)
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


def cell(table: pd.DataFrame, key: Any, *, signed: bool) -> str:
    """A row's mean in percent with half of its interval, or a dash."""
    if key not in table.index or table.loc[key, "n"] == 0:
        return "-"
    row = table.loc[key]
    mean = f"{100 * row['mean']:+.2f}" if signed else f"{100 * row['mean']:.2f}"
    return mean if row["n"] < 2 else f"{mean} +- {50 * (row['high'] - row['low']):.2f}"


def _early_stop(table: pd.DataFrame, key: Any) -> str:
    if key not in table.index or pd.isna(table.loc[key, "median"]):
        return "-"
    row = table.loc[key]
    return f"{row['median']:.0f} ({row['censored']} of {row['trainings']} censored)"


def _density(value: float) -> str:
    return "no level" if pd.isna(value) else f"{100 * value:.3g} %"


if __name__ == "__main__":
    sys.exit(main())
