"""``python -m benchmarks.methods [--data mnist] [--plot FILE]``: methods at equal density.

Every method finds masks of 10, 5 and 2 % of LeNet-300-100 on digits (or MNIST); the
ticket is their mask on the initial weights, trained as the dense network was. Beside
it stands the dense network trained for as long as the ticket took to be found and
trained (``dense_total``), and what a finder itself trained, at its end. Each method
is one command, printed with ``--dry``; what the store has is not trained again.
Accuracies are of test at early stop, chosen on validation; intervals are paired t
over seeds.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import stats
from analysis.frame import frame
from lth.store.run_folder import RunFolder

DENSITIES = (0.1, 0.05, 0.02)
ENDPOINT = "early_stop"
ONE_SHOT = ["schedule=targets", "schedule.densities=[0.1,0.05,0.02]", "schedule.one_shot=true"]
STEPWISE = ["schedule=targets", "schedule.densities=[0.55,0.3,0.17,0.1,0.07,0.05,0.03,0.02]"]
GLOBAL, AT_INIT = "allocation=global_top", "prune_at=0it"
BATCHES = "criterion.num_batches=16"

METHODS: dict[str, list[str]] = {
    "IMP, layer-wise": [*STEPWISE, "levels=8"],
    "IMP, global": [*STEPWISE, "levels=8", GLOBAL],
    "magnitude": [*ONE_SHOT, GLOBAL],
    "magnitude, LAMP": [*ONE_SHOT, "allocation=lamp"],
    "magnitude, ERK": [*ONE_SHOT, "allocation=erk"],
    "magnitude increase": [*ONE_SHOT, GLOBAL, "criterion=magnitude_increase"],
    "movement (Zhou)": [*ONE_SHOT, GLOBAL, "criterion=movement_zhou"],
    "movement (Sanh)": [*ONE_SHOT, GLOBAL, "criterion=movement_sanh"],
    "SNIP, trained": [*ONE_SHOT, GLOBAL, "criterion=snip", BATCHES],
    "Taylor (= Fisher)": [*ONE_SHOT, GLOBAL, "criterion=taylor", BATCHES],
    "Fisher, true": [*ONE_SHOT, GLOBAL, "criterion=fisher", "criterion.labels=model", BATCHES],
    "OBD": [*ONE_SHOT, GLOBAL, "criterion=obd", BATCHES],
    "SNIP": [*ONE_SHOT, GLOBAL, AT_INIT, "criterion=snip"],
    "GraSP": [*ONE_SHOT, GLOBAL, AT_INIT, "criterion=grasp"],
    "SynFlow": [*ONE_SHOT, GLOBAL, AT_INIT, "criterion=synflow", "score_steps=100"],
    "magnitude at init": [*ONE_SHOT, GLOBAL, AT_INIT],
    "random, ERK": [*ONE_SHOT, "allocation=erk", AT_INIT, "criterion=random"],
    "random": [*ONE_SHOT, "allocation=uniform", AT_INIT, "criterion=random"],
    "RigL": [*ONE_SHOT, "allocation=erk", AT_INIT, "criterion=random", "finder=rigl"],
    "SET": [*ONE_SHOT, "allocation=erk", AT_INIT, "criterion=random", "finder=set"],
    "gradual": [*ONE_SHOT, GLOBAL, AT_INIT, "finder=gradual"],
    "early-bird": [*ONE_SHOT, GLOBAL, AT_INIT, "finder=early_bird"],
    "edge-popup": [*ONE_SHOT, "allocation=uniform", AT_INIT, "finder=edge_popup", "finder.lr=0.01"],
    "supermask": [*ONE_SHOT, GLOBAL, AT_INIT, "finder=supermask", "finder.lr=0.1"],
    "evolved densities": [*ONE_SHOT, GLOBAL, "finder=evolve"],
}
"""What is named ``, trained`` or has no place is scored after the dense training."""

SETUPS: dict[str, tuple[list[str], list[str]]] = {
    "digits": (["train_steps=1000it", "eval_every=50it"], list(METHODS)),
    "mnist": (
        [
            "dataset=mnist",
            "dataset.normalize=unit",
            "optimizer.lr=0.0012",
            "train_steps=2000it",
            "eval_every=200it",
        ],
        ["IMP, layer-wise", "magnitude", "SNIP", "SynFlow", "RigL"],
    ),
}


def command(method: str, options: argparse.Namespace) -> list[str]:
    """The run of one method, as a user would type it after ``python -m lth.run``."""
    common = [
        f"seeds={list(range(options.seeds))}".replace(" ", ""),
        "levels=3",
        "baseline=[dense_total]",
        "baseline_levels=[0.1,0.05,0.02]",
        "verdict_against=dense_total",
        "report=false",
        "sink=[console]",
        f"workers={options.workers}",
        f"data_dir={options.data_dir}",
        f"store.root={options.store}",
    ]
    return [*SETUPS[options.data][0], *common, *METHODS[method]]


def run(method: str, options: argparse.Namespace) -> RunFolder:
    """Run a method, or find it stored; its folder."""
    done = subprocess.run(
        [sys.executable, "-m", "lth.run", *command(method, options)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{method} failed:\n{done.stdout}{done.stderr}")
    named = [line.split()[2] for line in done.stdout.splitlines() if line.startswith("stored in")]
    return RunFolder(Path(options.store), Path(named[0]).name)


def rows_of(method: str, data: pd.DataFrame) -> list[dict[str, Any]]:
    """The ticket at each density, what a finder itself found, and dense for the same total."""
    values = stats.by_seed(data, ENDPOINT)
    # Only at its end has a network whose mask moves the density that it was asked for.
    ends = stats.by_seed(data, "final")
    found = []
    kinds = [v for v in values.columns if v not in ("dense_total", "static")]
    for variant in sorted(kinds, key=lambda v: v != "ticket"):
        for density in DENSITIES:
            part = data[(data["level"] > 0) & (data["variant"] == "ticket")]
            level = int(part.loc[(part["density"] - density).abs().idxmin(), "level"])
            own = (values if variant == "ticket" else ends).xs(level, level="level")
            cell = data[(data["level"] == level) & (data["variant"] == variant)]
            if variant not in own or own[variant].isna().all():
                continue
            if variant != "ticket" and not _a_result(cell):
                continue
            difference = (own["ticket"] - own["dense_total"]).dropna()
            found.append(
                {
                    "method": _name(method, variant, cell, density),
                    "density": density,
                    "search": int(cell["search_steps"].mean()),
                    "accuracy": stats.estimate(list(own[variant].dropna())),
                    "against": (stats.estimate(list(difference)) if variant == "ticket" else None),
                }
            )
    return found


def _a_result(found: pd.DataFrame) -> bool:
    """Whether what a finder itself trained is sparse, and trained as long as tickets are."""
    shortest = (found["end_step"] - found["start_step"]).min()
    return bool(shortest >= 1000 and found["density"].max() < 0.9)


def _name(method: str, variant: str, found: pd.DataFrame, density: float) -> str:
    """The method, or its finder's own network, with the density of that where it is another."""
    if variant == "ticket":
        return method
    own = float(found["density"].mean())
    other = f" ({100 * own:.0f} %)" if abs(own / density - 1) > 0.1 else ""
    return f"{method}: its own network{other}"


def table(rows: Sequence[dict[str, Any]], dense: stats.Estimate, updates: int) -> str:
    """Markdown: accuracy in percent, and points above dense trained for the same total."""
    by_method: dict[str, dict[float, dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], {})[row["density"]] = row
    names = " | ".join(f"{100 * d:g} %" for d in DENSITIES)
    total = " | ".join(f"{100 * d:g} %: - dense" for d in DENSITIES)
    lines = [
        f"| method | search updates | {names} | {total} |",
        "|---" * (2 + 2 * len(DENSITIES)) + "|",
        f"| dense, {updates:,} updates | 0 | {_percent(dense)} (100 %) " + "| " * 5 + "|",
    ]
    for method, cells in by_method.items():
        search = sorted({c["search"] for c in cells.values()})
        shown = f"{search[0]:,}" + (f" to {search[-1]:,}" if len(search) > 1 else "")
        values = " | ".join(_percent(cells[d]["accuracy"]) if d in cells else "" for d in DENSITIES)
        against = " | ".join(
            _percent(cells[d]["against"], signed=True) if d in cells and cells[d]["against"] else ""
            for d in DENSITIES
        )
        lines.append(f"| {method} | {shown} | {values} | {against} |")
    return "\n".join(lines)


def _percent(e: stats.Estimate, *, signed: bool = False) -> str:
    mean = f"{100 * e.mean:{'+' if signed else ''}.2f}"
    return mean if e.n < 2 else f"{mean} ± {100 * e.half:.2f}"


def plot(rows: Sequence[dict[str, Any]], dense: stats.Estimate, path: Path, title: str) -> None:
    """One panel per density: methods by accuracy, intervals, dense as a band."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    sparsest = {r["method"]: (-r["density"], r["accuracy"].mean) for r in rows}
    names = sorted(sparsest, key=lambda m: sparsest[m])
    size = (12, 1.5 + 0.26 * len(names))
    canvas, axes = pyplot.subplots(1, len(DENSITIES), figsize=size, sharey=True)
    for ax, density in zip(axes, DENSITIES, strict=True):
        ax.axvspan(100 * dense.low, 100 * dense.high, color="#999999", alpha=0.3, lw=0)
        ax.axvline(100 * dense.mean, color="#666666", lw=1)
        own_rows = [r for r in rows if r["density"] == density]
        means = sorted(100 * r["accuracy"].mean for r in own_rows)
        # Most of them fill the panel; those further left are told by an arrow.
        left = 100 - 1.3 * (100 - means[len(means) // 8])
        for row in own_rows:
            own, place = row["accuracy"], names.index(row["method"])
            if 100 * own.mean < left:
                ax.annotate(f"\u2190 {100 * own.mean:.0f}", (left, place), va="center", fontsize=8)
                continue
            ax.errorbar(
                100 * own.mean,
                place,
                xerr=100 * own.half,
                fmt="o" if "its own" not in row["method"] else "s",
                color="#0072B2" if "its own" not in row["method"] else "#D55E00",
                ms=4,
                lw=1.2,
            )
        ax.set_title(f"{100 * density:g} % of the weights")
        ax.set_xlim(left, 100)
        ax.set_xlabel("test accuracy in %")
        ax.grid(axis="x", color="#dddddd")
        ax.set_axisbelow(True)
    axes[0].set_yticks(range(len(names)), names)
    canvas.suptitle(title, fontsize=11)
    canvas.tight_layout()
    canvas.savefig(path, dpi=110)


def main() -> int:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=SETUPS, default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--store", default="results")
    parser.add_argument("--only", nargs="*", help="these methods only")
    parser.add_argument("--plot", type=Path, help="a PNG of all of them")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true", help="only print the commands")
    options = parser.parse_args()
    methods = [m for m in SETUPS[options.data][1] if not options.only or m in options.only]
    rows: list[dict[str, Any]] = []
    dense, updates = stats.estimate([]), 0
    for method in methods:
        if options.dry:
            print("python -m lth.run", shlex.join(command(method, options)))
            continue
        data = frame([run(method, options)])
        rows += rows_of(method, data)
        level_0 = data[data["level"] == 0]
        dense = stats.estimate(list(stats.endpoint_values(level_0, ENDPOINT)))
        updates = int(level_0["end_step"].max())
        print(f"done: {method}", file=sys.stderr, flush=True)
    if options.dry:
        return 0
    print(table(rows, dense, updates))
    if options.plot:
        title = f"{options.data}, LeNet-300-100, {options.seeds} seeds, 95 % intervals"
        plot(rows, dense, options.plot, title)
    if options.json:
        kept = [{**r, **{k: vars(r[k]) for k in ("accuracy", "against") if r[k]}} for r in rows]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
