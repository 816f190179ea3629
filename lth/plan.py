"""What a run is going to do: counted, compared with the store, and timed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lth import mask as masks
from lth.ahead import Expected, expected, trainings
from lth.build import Run
from lth.dataset.task import First, Split
from lth.engine.network import CHUNK
from lth.granularity.weights import Weights
from lth.level import TICKET
from lth.prepare import SIMULATED, ladder
from lth.protocol import Event, Moment, Record
from lth.search import Search
from lth.sink.console import duration
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder
from lth.training import Training


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Trainings and seconds ahead. ``seconds`` is an estimate from a few timed updates.

    ``updates`` counts each Training's, at most, by seed and level.
    """

    text: list[str]
    updates: Mapping[tuple[int, int], Sequence[int]]
    stored: int
    seconds: float

    @property
    def trainings(self) -> int:
        """How many there are, stored ones too."""
        return sum(map(len, self.updates.values()))


def plan(run: Run, search: Search, folder: RunFolder, store: FileStore) -> Plan:
    """Count what the search makes and what the store has of it; time a few updates."""
    rows = list(expected(search))
    every = trainings(rows)
    stored = trainings([row for row in rows if _is_stored(row, search, folder, store)])
    missing = Counter((t.first_step, t.last_step) for key, t in every.items() if key not in stored)
    seconds = 0.0
    if missing:
        seconds = _seconds(run, search, missing) / run.root.workers
    updates: dict[tuple[int, int], list[int]] = {}
    for (seed, level, _), training in every.items():
        updates.setdefault((seed, level), []).append(training.updates)
    task = search.tasks[search.seeds[0]]
    start = search.theta_0(search.seeds[0])
    weights = sum(start.weights[n].numel() for n in search.layers)
    last, exact = "", search.grain.weights_per_unit is not None
    densities = ladder(search, search.levels) if weights <= SIMULATED else []
    if search.levels and densities:
        about = "" if exact else "about "
        last = f" (density 1 to {about}{densities[-1]:.3g})"
    controls = ", ".join(search.baselines) or "none"
    where = f"{run.runtime.torch_device.type}"
    if where == "cpu":
        where += f", {run.runtime.num_threads} thread" + "s" * (run.runtime.num_threads > 1)
    if run.root.workers > 1:
        where += f", {run.root.workers} workers"
    text = [
        f"run {run.run_id}: {_names(run)}",
        f"  data       {len(task.train):,} train, {len(task.validation):,} validation, "
        f"{len(task.test):,} test examples of shape {list(task.input_shape)}",
        f"  network    {weights:,} prunable weights in {len(search.layers)} layers",
        *_units(search),
        f"  levels     0 to {search.levels}{last}; seeds {_list(search.seeds)}; "
        f"controls {controls}{_levels(search)}",
        *_imported(run, search),
        f"  trainings  {len(every)} of {_range(t.updates for t in every.values())} updates; "
        f"{len(stored)} stored, {len(every) - len(stored)} to do, about {duration(seconds)} on "
        f"{where}",
        f"  engine     {_engine(run, search)}",
        f"  verdict    {TICKET} against {run.root.verdict_against} at {run.root.endpoint}, "
        f"mean over levels with density {_percent(run.root.verdict_density)}"
        f"{_no_verdict(run, search, densities if exact else [])}",
        f"  store      {folder.path}",
    ]
    return Plan(text=text, updates=updates, stored=len(stored), seconds=seconds)


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return " to ".join(f"{v:,}" for v in dict.fromkeys((found[0], found[-1])))


def _imported(run: Run, search: Search) -> list[str]:
    """What is brought in from other runs, and what of it did not fit."""
    if not search.imports:
        return []
    ticket, given = run.root.ticket, list(search.imports.values())
    values = f"its values ({ticket.start})" if ticket.weights else "this run's own values"
    what = f"{'its mask' if ticket.mask else 'no mask'}, {values}"
    redrawn = given[0].redrawn
    if redrawn:
        what += f"; output layer re-drawn, dense ({', '.join(redrawn)})"
    if len({own.name for own in given}) > 1:
        lines = [f"one for each seed: {what}"]
        lines += [f"seed {seed}: {own.name}" for seed, own in search.imports.items()]
    else:
        lines = [f"{given[0].name}: {what}"]
        if len(given) > 1:
            lines.append("one for all seeds: intervals are about this ticket, not its kind")
    return [f"  {'' if i else 'ticket':<10} {line}" for i, line in enumerate(lines)]


def _units(search: Search) -> list[str]:
    """Where units are not single weights: how many there are, and which layers keep theirs."""
    if isinstance(search.granularity, Weights):
        return []
    grain = search.grain
    alive = grain.alive(search.dense(search.seeds[0]).mask)
    name = type(search.granularity).__module__.rpartition(".")[2]
    options = "".join(f" {k}={v}" for k, v in vars(search.granularity).items())
    whole = ", ".join(n for n in search.layers if n in grain.excluded)
    kept = f"; not pruned are those of {whole}" if whole else ""
    return [f"  units      {masks.size(alive):,} ({name}{options}){kept}"]


def _engine(run: Run, search: Search) -> str:
    seed = search.seeds[0]
    choose = getattr(run.engine, "choose", None)
    if choose is None:
        return str(run.engine.numerics(run.runtime, search.dense(seed))["engine"])
    first, later = (choose(t, run.runtime)[1] for t in (search.dense(seed), search.typical(seed)))
    return str(first) if first == later else f"{first} for level 0, then {later}"


def _no_verdict(run: Run, search: Search, densities: list[float]) -> str:
    """What a verdict is going to lack, as far as that is known (``densities`` may not be)."""
    against, (low, high) = run.root.verdict_against, run.root.verdict_density
    if against not in search.baselines:
        return f" ({against} is not among these controls)"
    levels = [d for level, d in enumerate(densities) if level and search.has_controls(level)]
    if densities and not any(low <= d <= high for d in levels):
        return " (no level has)"
    return ""


def _names(run: Run) -> str:
    groups = ("dataset", "model", "optimizer", "criterion", "schedule", "rewind")
    return ", ".join(str(run.specs[g]["name"]) for g in groups)


def _list(values: Any) -> str:
    return ",".join(str(v) for v in values)


def _levels(search: Search) -> str:
    if search.baseline_levels is None or not search.baselines:
        return ""
    return f" at levels {_list(sorted(search.baseline_levels))}"


def _percent(bounds: list[float]) -> str:
    return " to ".join(f"{100 * b:g} %" for b in bounds)


def _is_stored(row: Expected, search: Search, folder: RunFolder, store: FileStore) -> bool:
    """Whether a row's Training is committed, as far as the run's references tell."""
    if row.level == 0:
        return store.folder(search.dense(row.seed).id).read("done.json") is not None
    file = folder.file(row.seed, row.variant, row.level, row.draw)
    return file.with_suffix("").is_dir()


def _seconds(run: Run, search: Search, spans: Mapping[tuple[int, int], int]) -> float:
    """Time a few updates and a look at some examples with the dense network, and scale up.

    ``spans`` counts the Trainings from one step to another.
    """
    dense = search.typical(search.seeds[0])

    def timed(steps: int, events: list[Event]) -> float:
        short = dense.replace(last_step=steps)
        began = time.perf_counter()
        list(
            run.engine.train(
                [short], events=lambda t: events, resume=lambda t: None, runtime=run.runtime
            )
        )
        return time.perf_counter() - began

    timed(1, [])
    start = timed(1, [])
    count = 2 if start > 0.2 else 30
    count = min(count, dense.updates)
    step = max(timed(count, []) - start, 1e-9) / max(1, count - 1)
    task = dense.task
    seen = First(task.validation, CHUNK)
    look = max(timed(0, [_Look(seen)]) - start, 0.0) / len(seen)
    examples = len(task.train) + 2 * len(task.test)

    def one(first: int, last: int) -> float:
        evaluations = len(dense.replace(first_step=first, last_step=last).grid())
        looks = examples + evaluations * len(task.validation)
        return start + (last - first) * step + looks * look

    return sum(count * one(*span) for span, count in spans.items())


@dataclass(frozen=True)
class _Look:
    """Evaluates a split once."""

    split: Split

    def steps(self, training: Training) -> Sequence[int]:
        return [training.first_step]

    def __call__(self, moment: Moment, record: Record) -> None:
        moment.evaluate(self.split)
