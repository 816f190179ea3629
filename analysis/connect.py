"""``python -m analysis.connect RUN... [--levels 0,3,7]``: instability and linear connectivity.

Makes the copies that a run lacks (the same mask and start, another data order
and augmentation), stores them, and measures error along the lines between
copies (``order``), between consecutive levels (``levels``) and between seeds
(``inits``, the positive control). Writes ``connect.csv`` and
``connect_lines.csv`` into the run's ``report/``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd

from analysis.frame import LocateError, trained
from analysis.stats import estimate
from analysis.whole import write_csv
from lth.config import ConfigError
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError

STABLE = 0.02
"""Frankle et al. (2020) call a network stable where the error barrier is below 2 points."""

Pair = tuple[dict[str, Any], Any, Any, Any]
"""What a pair is, the Training that says how to build it, and the two end states."""


def measure(
    folder: RunFolder,
    *,
    levels: Sequence[int],
    count: int,
    points: int,
    rewind_steps: Sequence[str] = (),
    examples: int = 10_000,
    **changes: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(pairs, lines) of one run. ConfigError where it cannot be opened again.

    LocateError where nothing can be measured: all that is asked for diverged.
    """
    from lth.complete import Workshop
    from lth.copies import all_copies, reopen
    from lth.step import Step

    run, search = reopen(folder, **changes)
    per_epoch = search.tasks[search.seeds[0]].updates_per_epoch
    steps = [Step.parse(k).updates(per_epoch) for k in rewind_steps]
    late = [k for k in steps if k >= search.train_steps]
    if late:
        allowed = f"below {search.train_steps}it"
        raise ConfigError([f"--rewind-steps: got {late[0]}it, allowed: {allowed}"])
    workshop = Workshop(store=run.store, engine=run.engine, runtime=run.runtime, say=_say)
    found = list(
        all_copies(search, workshop, levels=levels, count=count, rewind_steps=steps, say=_say)
    )
    rows, lines = [], []
    with run.runtime.active("fp32"):
        for place, training, a, b in _pairs(found, set(levels), search.rewind_step):
            row, own = _pair(run.runtime.torch_device, training, a, b, points, examples)
            place = {"run_id": folder.run_id, **place}
            rows.append({**place, **row})
            lines += [{**place, **point} for point in own]
    if not rows:
        wanted = ",".join(map(str, levels))
        raise LocateError(f"--levels: got {wanted}, allowed: levels with tickets not diverged")
    return pd.DataFrame(rows), pd.DataFrame(lines)


def _pairs(found: Sequence[Any], levels: set[int], k: int) -> Iterator[Pair]:
    for c in found:
        place = _place(c, c.level)
        for (i, a), (j, b) in combinations(enumerate(c.ends), 2):
            named = {**place, "kind": "order", "pair": f"copies {i} and {j}"}
            yield named, c.training, a.state("end"), b.state("end")
    own = [c for c in found if c.rewind_step == k]
    for seed in sorted({c.seed for c in own}):
        ladder = sorted((c for c in own if c.seed == seed), key=lambda c: c.level)
        for c, d in pairwise(ladder):
            if d.level not in levels or d.level != c.level + 1:
                continue
            named = {**_place(d, d.level), "kind": "levels", "pair": f"levels {c.level}, {d.level}"}
            yield named, c.training, c.ends[0].state("end"), d.ends[0].state("end")
    for level in sorted(levels):
        seeds = sorted((c for c in own if c.level == level), key=lambda c: c.seed)
        for c, d in pairwise(seeds):
            named = {**_place(c, level), "kind": "inits", "pair": f"seeds {c.seed}, {d.seed}"}
            yield named, c.training, c.ends[0].state("end"), d.ends[0].state("end")


def _place(c: Any, level: int) -> dict[str, Any]:
    return {"seed": c.seed, "level": level, "rewind_step": c.rewind_step, "density": c.density}


def _pair(
    device: Any, training: Any, a: Any, b: Any, points: int, examples: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from lth.dataset.task import First
    from lth.engine.network import Network
    from lth.interpolate import barrier, distances, line

    network = Network(training, device)
    alphas = [float(v) for v in np.linspace(0, 1, points)]
    train = First(training.task.train, examples)
    row: dict[str, Any] = distances(a, b)
    lines = {
        name: line(network, a, b, alphas=alphas, split=split, statistics=train)
        for name, split in (("test", training.task.test), ("train", train))
    }
    for name, own in lines.items():
        row[f"{name}_barrier"] = barrier(own)
        row[f"{name}_barrier_chord"] = barrier(own, chord=True)
    ends = lines["test"][0].classes, lines["test"][-1].classes
    row["disagreement"] = float((ends[0] != ends[1]).double().mean())
    return row, [
        {
            "alpha": p.alpha,
            "test_error": p.error,
            "test_loss": p.loss,
            "train_error": q.error,
            "train_loss": q.loss,
        }
        for p, q in zip(lines["test"], lines["train"], strict=True)
    ]


def summarise(pairs: pd.DataFrame) -> pd.DataFrame:
    """Per (kind, level, rewind_step): means and t intervals over seeds, pairs averaged first."""
    rows = []
    for (kind, level, k), part in pairs.groupby(["kind", "level", "rewind_step"]):
        result = estimate(list(part.groupby("seed")["test_barrier"].mean()))
        state = "undecided"
        if result.high < STABLE:
            state = "stable"
        elif result.low >= STABLE:
            state = "not stable"
        rows.append(
            {
                "kind": kind,
                "level": level,
                "k": k,
                "density": part["density"].mean(),
                "n": result.n,
                "barrier": result.mean,
                "low": result.low,
                "high": result.high,
                "state": state,
                **{c: part[c].mean() for c in ("train_barrier", "l2", "cosine", "disagreement")},
            }
        )
    return pd.DataFrame(rows)


def text(summary: pd.DataFrame) -> str:
    """The table on the screen, and the smallest stable k of each level."""
    shown = pd.DataFrame(
        {
            "between": summary["kind"],
            "level": summary["level"],
            "k": summary["k"],
            "density %": (100 * summary["density"]).map("{:.2f}".format),
            "n": summary["n"],
            "test barrier, points": [_interval(r) for r in summary.itertuples()],
            "train barrier": (100 * summary["train_barrier"]).map("{:.2f}".format),
            "state": summary["state"],
            "L2": summary["l2"].map("{:.2f}".format),
            "1 - cos": summary["cosine"].map("{:.3f}".format),
            "disagree %": (100 * summary["disagreement"]).map("{:.2f}".format),
        }
    )
    lines = [
        "Error on the line above its ends (Frankle et al. 2020), mean and 95 % interval over seeds",
        shown.to_string(index=False),
        "",
    ]
    own = summary[summary["kind"] == "order"]
    for level, part in own.groupby("level"):
        stable = part[part["state"] == "stable"]["k"]
        what = f"level {level}" if level else "dense"
        best = f"{stable.min()}" if len(stable) else "none of those measured"
        lines.append(f"Smallest k from which copies of {what} are stable (below 2 points): {best}")
    return "\n".join(lines)


def _interval(row: Any) -> str:
    mean = f"{100 * row.barrier:.2f}"
    return mean if row.n < 2 else f"{mean} [{100 * row.low:+.2f}, {100 * row.high:+.2f}]"


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _levels(value: str | None, folder: RunFolder) -> list[int]:
    known = sorted({r.level for r in folder.references() if r.variant == "ticket"})
    if value is None:
        picks = {0, (len(known) - 1) // 2, len(known) - 1}
        return [known[i] for i in sorted(picks)]
    try:
        wanted = sorted({int(v) for v in value.split(",")})
    except ValueError:
        wanted = [-1]
    if not set(wanted) <= set(known):
        allowed = ", ".join(map(str, known))
        raise LocateError(f"--levels: got {value!r}, allowed: some of {allowed}")
    return wanted


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 something stored is damaged, 2 an argument or a configuration is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.connect", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--levels", help="such as 0,3,7 (default: dense, the middle, the last)")
    parser.add_argument("--copies", type=int, default=2, help="copies of each network (2)")
    parser.add_argument("--points", type=int, default=21, help="points on a line, with its ends")
    parser.add_argument(
        "--rewind-steps",
        nargs="+",
        default=[],
        metavar="STEP",
        help="further k for the dense network, such as 100it 1ep",
    )
    parser.add_argument("--data-dir", help="where the data are now")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    options = parser.parse_args(arguments)
    changes = {"data_dir": options.data_dir} if options.data_dir else {}
    try:
        for name, value in (("--copies", options.copies), ("--points", options.points)):
            if value < 2:
                raise LocateError(f"{name}: got {value}, allowed: 2 or more")
        for folder in trained(options.run, options.store):
            with folder.at_work():
                pairs, lines = measure(
                    folder,
                    levels=_levels(options.levels, folder),
                    count=options.copies,
                    points=options.points,
                    rewind_steps=options.rewind_steps,
                    **changes,
                )
            folder.report.mkdir(parents=True, exist_ok=True)
            write_csv(folder.report / "connect.csv", pairs)
            write_csv(folder.report / "connect_lines.csv", lines)
            print(f"run {folder.run_id}\n{text(summarise(pairs))}")
            print(f"tables in  {folder.report}/connect.csv, connect_lines.csv")
            print(f"figure     python -m analysis.report {shlex.quote(str(folder.path))}\n")
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except ConfigError as error:
        print("\n".join(error.faults), file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"--rewind-steps: {error}", file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}; run the same lth.run command to recompute", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"store: cannot be written: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
