"""``python -m analysis.runs [STORE] [--where KEY=VALUE ...]``: what a store holds.

``--delete RUN...`` removes runs and the Trainings that no other run refers to;
``--orphans`` those that no run refers to at all (of killed runs, say). Both ask
first (``--yes`` does not), and delete nothing while a process is at work on a run of the store. A
Training that some process holds stays.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.evidence import evidence
from analysis.frame import LocateError, locate
from analysis.words import name_of
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder, runs
from lth.store.stored import DamagedError

KEYS = ("run", "experiment", "model", "data", "seeds", "levels", "trainings", "megabytes", "date")


def listing(store: Path) -> pd.DataFrame:
    """One row per run: what it is, how much there is of it, and its verdict."""
    rows = [_row_or_damage(folder) for folder in runs(store)]
    return pd.DataFrame(rows, columns=[*KEYS, "verdict"])


def _row_or_damage(folder: RunFolder) -> dict[str, Any]:
    """A damaged run is listed as such; it hides no other."""
    try:
        return _row(folder)
    except DamagedError as damage:
        return dict.fromkeys(KEYS, "-") | {
            "run": folder.run_id,
            "verdict": f"damaged: {damage}; run the same lth.run command to recompute",
        }


def _row(folder: RunFolder) -> dict[str, Any]:
    config, info = folder.config(), folder.info() or {"invocations": [{}]}
    references = list(folder.references())
    trainings = {r.training for r in references}
    last = info["invocations"][-1]
    return {
        "run": folder.run_id,
        "experiment": last.get("experiment") or "-",
        "model": name_of(config["model"]),
        "data": name_of(config["dataset"]),
        "seeds": len({r.seed for r in references}),
        "levels": max((r.level for r in references), default=0),
        "trainings": len(trainings),
        "megabytes": round(sum(_size(folder.store_root, i) for i in trainings) / 1e6, 1),
        "date": str(last.get("time") or "-")[:10],
        "verdict": _verdict(folder) if references else "nothing is trained yet",
    }


def _verdict(folder: RunFolder) -> str:
    try:
        return evidence(folder).verdict
    except DamagedError as damage:
        return f"damaged: {damage}"


def _size(store: Path, training_id: str) -> int:
    path = FileStore(store).folder(training_id).path
    return sum(p.stat().st_size for p in path.iterdir()) if path.is_dir() else 0


def chosen(table: pd.DataFrame, where: Sequence[str]) -> pd.DataFrame:
    """The rows that satisfy every ``KEY=VALUE``; LocateError for a key that is none."""
    for condition in where:
        key, _, value = condition.partition("=")
        if key not in KEYS or not value:
            raise LocateError(f"--where: got {condition!r}, allowed: KEY=VALUE, {', '.join(KEYS)}")
        table = table[table[key].astype(str) == value]
    return table


def unreferenced(store: Path, leaving: Iterable[RunFolder]) -> list[str]:
    """Trainings that no run refers to but those that are ``leaving``."""
    gone = {f.run_id for f in leaving}
    kept = {r.training for f in runs(store) if f.run_id not in gone for r in f.references()}
    return [i for i in _all(store) if i not in kept]


def only_of(store: Path, leaving: Sequence[RunFolder]) -> list[str]:
    """Trainings that the ``leaving`` runs refer to and no other run does."""
    own = {r.training for f in leaving for r in f.references()}
    return [i for i in unreferenced(store, leaving) if i in own]


def _all(store: Path) -> list[str]:
    return sorted(p.name for p in store.glob("training/*/*") if p.is_dir())


def remove(store: Path, leaving: Sequence[RunFolder], trainings: Sequence[str]) -> list[str]:
    """Delete runs, then Trainings; gives those that are in use and stay.

    References go first, so that no reference ever means a Training that is gone.
    """
    for folder in leaving:
        shutil.rmtree(folder.path)
    busy = []
    files = FileStore(store)
    for training_id in trainings:
        with files.lock(training_id, wait=False) as mine:
            if not mine:
                busy.append(training_id)
                continue
            files.discard(training_id)
            shutil.rmtree(files.folder(training_id).path)
    return busy


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 something is in use or damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.runs", description=__doc__)
    parser.add_argument("store", nargs="?", default="results", help="a store (default: results)")
    parser.add_argument("--where", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--delete", nargs="+", default=[], metavar="RUN")
    parser.add_argument("--orphans", action="store_true", help="delete what no run refers to")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(arguments)
    store = Path(options.store)
    try:
        if not (store / "run").is_dir():
            raise LocateError(f"STORE: got {str(store)!r}, allowed: a folder with runs")
        if options.delete or options.orphans:
            return _delete(store, options)
        table = chosen(listing(store), options.where)
        _print(table.to_dict("records"))
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"STORE: cannot be changed: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _print(rows: Iterable[Mapping[str, Any]]) -> None:
    count = 0
    for row in rows:
        count += 1
        if row["trainings"] == "-":
            print(f"{row['run']}  {row['verdict']}")
            continue
        print(
            f"{row['run']}  {row['experiment']}: {row['model']} on {row['data']}, "
            f"{row['seeds']} seeds, levels 0 to {row['levels']}, {row['trainings']} trainings, "
            f"{row['megabytes']} MB, {row['date']}\n    {row['verdict']}"
        )
    print(f"{count} run{'s' * (count != 1)}")


def _delete(store: Path, options: argparse.Namespace) -> int:
    leaving = locate(options.delete, store) if options.delete else []
    if any(f.store_root.resolve() != store.resolve() for f in leaving):
        raise LocateError(f"--delete: allowed: runs of the store {str(store)!r}")
    trainings = unreferenced(store, leaving) if options.orphans else only_of(store, leaving)
    size = sum(_size(store, i) for i in trainings) / 1e6
    what = f"{len(leaving)} runs and {len(trainings)} trainings ({size:.1f} MB)"
    if not options.yes and not _agreed(f"delete {what}? [y/N] "):
        print("nothing was deleted")
        return 0
    with ExitStack() as locks:
        # Only now: a process that is at work refers to a Training some time after it has found it.
        working = [f.run_id for f in runs(store) if not locks.enter_context(f.alone())]
        if working:
            names = ", ".join(working)
            print(f"nothing was deleted: some process is at work on run {names}", file=sys.stderr)
            return 1
        kept = set(trainings) - set(unreferenced(store, leaving))
        busy = [*kept, *remove(store, leaving, [i for i in trainings if i not in kept])]
    print(f"deleted {what}" + (f"; {len(busy)} trainings are in use and stay" if busy else ""))
    return 1 if busy else 0


def _agreed(question: str) -> bool:
    """What is typed; nobody there to answer means no."""
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


if __name__ == "__main__":
    sys.exit(main())
