"""One run from its checked configuration to its table."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from lth.baseline.corrupted_task import CorruptedTask
from lth.build import Run
from lth.complete import ReplayError, Workshop
from lth.config import ConfigError
from lth.crew import crew
from lth.dataset.corrupt import corrupt
from lth.event.checkpoint import Interval
from lth.event.progress import Progress
from lth.fill import ZERO
from lth.finder.frozen import Frozen
from lth.finder.supermask import Bernoulli
from lth.layer import uses
from lth.level import NOWHERE, Row
from lth.plan import Plan, plan
from lth.prepare import prepare, read_data
from lth.protocol import Sink
from lth.prune import CriterionError
from lth.search import Search
from lth.sink.console import columns
from lth.store.files import FileStore
from lth.store.run_folder import Reference, RunFolder, invocation
from lth.store.stored import Stored
from lth.store.thin import thin
from lth.stream import generator
from lth.training import Training, build_model
from lth.tuned import tuned_run


class FailedError(Exception):
    """A training failed; the message says which and what can be done."""


def conduct(run: Run, experiment: str | None, *, report: bool, sweep: str | None = None) -> str:
    """Search, store, mirror to the sinks and report; gives the run_id.

    ``experiment`` and ``sweep`` are the names that the run goes by.

    Raises ConfigError before anything is written, FailedError where a training
    failed. Interrupting it at any moment loses nothing that was stored.
    """
    together = getattr(run.engine, "together", None)
    if together is None:
        _conduct(run, experiment, report=report, sweep=sweep)
        return run.run_id
    if "WORLD_SIZE" in os.environ and (sweep is not None or run.root.workers > 1):
        what = "-m" if sweep is not None else f"workers={run.root.workers}"
        raise ConfigError([f"engine: got ddp under torchrun with {what}, allowed: one run at once"])
    try:
        run.engine.join(run.runtime)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    together(
        lambda: _conduct(run, experiment, report=report, sweep=sweep),
        tasks=lambda: prepare(run, read_data(run)).tasks.values(),
        runtime=run.runtime,
    )
    return run.run_id


def _conduct(run: Run, experiment: str | None, *, report: bool, sweep: str | None) -> None:
    raw = read_data(run)
    search = prepare(run, raw)
    _check_engine(run, search)
    store: FileStore = run.store
    folder = RunFolder(store.root, run.run_id)
    with ExitStack() as at_work:
        try:
            run = tuned_run(run, search)
            ahead = plan(run, search, folder, store)
            at_work.enter_context(folder.at_work())
            _begin(run, search, folder, raw.digest, experiment, sweep)
        except OSError as error:
            raise ConfigError(
                [
                    f"store.root: got {str(store.root)!r}, allowed: a folder that can be written "
                    f"({error.strerror})"
                ]
            ) from None
        _work(run, search, folder, ahead, experiment, sweep, report=report)
    with folder.alone() as alone:
        if alone:
            # Others that share the run still read what this removes; the last of them does it.
            thin(store, folder, store.keep_tensors)


def _work(
    run: Run,
    search: Search,
    folder: RunFolder,
    ahead: Plan,
    experiment: str | None,
    sweep: str | None,
    *,
    report: bool,
) -> None:
    """Train, store, mirror and report."""
    display = _Display(run, search, ahead)
    sinks = list(run.sink.values())
    for sink in sinks:
        sink.open(
            {
                "text": ahead.text,
                "folder": folder,
                "config": run.config,
                "seeds": list(run.root.seeds),
                "experiment": experiment,
                "sweep": sweep,
                "say": display.say,
            }
        )
    workshop = Workshop(
        store=run.store,
        engine=run.engine,
        runtime=run.runtime,
        checkpoint=Interval.parse(run.root.checkpoint_every),
        observe=lambda training: [Progress(show=display.show)],
        say=display.say,
        committed=display.committed,
        waits_aloud=run.root.workers == 1,
        processes=run.root.workers,
    )
    status, found = "failed", None
    try:
        with crew(run.config, run.root.workers - 1, display.say):
            for rows in search.run(workshop):
                display.ready(rows)
                references = [_refer(row, folder, display) for row in rows]
                mirrored = [_mirror(*pair) for pair in zip(rows, references, strict=True)]
                for sink in sinks:
                    sink.write(mirrored)
                _notice(rows, search.grain.bypassed, display)
        found = _end(folder, display, report=report)
        status = "done"
    except (CriterionError, ReplayError) as error:
        raise FailedError(str(error)) from None
    finally:
        for sink in sinks:
            sink.close(status, found)


def _check_engine(run: Run, search: Search) -> None:
    """A named engine refuses what it cannot do; only ``auto`` chooses another."""
    ask = getattr(run.engine, "refusal", None)
    reasons = [] if ask is None else [ask(t, run.runtime) for t in _kinds(search)]
    for reason in filter(None, reasons):
        name = type(run.engine).__module__.rpartition(".")[2]
        raise ConfigError([f"engine: got {name}, which {reason}, allowed: auto, loop"])


def _kinds(search: Search) -> Iterator[Training]:
    """A Training of each kind that an engine may refuse."""
    dense = search.dense(search.seeds[0])
    yield search.typical(search.seeds[0])
    if search.fill != ZERO:
        nothing = {n: torch.zeros_like(m) for n, m in dense.mask.items()}
        yield dense.replace(mask=nothing, fill={n: dense.start.weights[n] for n in nothing})
    if not getattr(search.finder, "trains_weights", True):
        yield dense.replace(model=Frozen(model=dense.model, choice=Bernoulli()))
    penalty = getattr(search.finder, "l1", None)
    if penalty:
        yield dense.replace(norm_l1=penalty)
    if any(isinstance(b, CorruptedTask) for b in search.baselines.values()):
        yield dense.replace(task=corrupt(dense.task, labels=True, pixels=False, seed=0))


class _Display:
    """What every sink is shown while a run goes on."""

    def __init__(self, run: Run, search: Search, ahead: Plan) -> None:
        self._sinks: Sequence[Sink] = list(run.sink.values())
        self._search = search
        self._ahead = ahead
        self._finished: list[int] = []
        self._own: dict[tuple[Any, Any], list[int]] = {}
        self._since: tuple[float, list[int]] | None = None

    def say(self, text: str) -> None:
        for sink in self._sinks:
            sink.say(text)

    def committed(self, training: Training, stored: Stored) -> None:
        place = self._search.place_of(training)
        if place is not NOWHERE:
            self._own.setdefault((place["seed"], place["level"]), []).append(training.updates)

    def ready(self, rows: Sequence[Row]) -> None:
        """Count the Trainings of what is finished, whoever trained them."""
        for place in {(row.seed, row.level) for row in rows}:
            self._finished += self._ahead.updates[place]
            self._own.pop(place, None)

    def _done(self) -> list[int]:
        return [*self._finished, *(n for own in self._own.values() for n in own)]

    def show(self, training: Training, step: int, loss: float) -> None:
        row = {
            "levels": self._search.levels,
            "done": len(self._done()),
            "of": self._ahead.trainings,
            "step": step,
            "last_step": training.last_step,
            "loss": loss,
            "seconds_left": self._seconds_left(),
            **self._search.place_of(training),
        }
        for sink in self._sinks:
            sink.progress(row)

    def _seconds_left(self) -> float:
        """By the pace since the first training of this process; before, by the plan."""
        done, now = self._done(), time.monotonic()
        if self._since is None:
            self._since = (now, done)
        began, first = self._since
        if len(done) - len(first) < 3:
            return self._ahead.seconds - (now - began)
        left = sum(map(sum, self._ahead.updates.values())) - sum(done)
        return (now - began) * left / max(1, sum(done) - sum(first))


def _begin(
    run: Run,
    search: Search,
    folder: RunFolder,
    digest: str,
    experiment: str | None,
    sweep: str | None,
) -> None:
    try:
        folder.begin(
            run.semantic,
            digest,
            invocation(
                sys.argv,
                experiment=experiment,
                sweep=sweep,
                config=run.config,
                seeds=list(run.root.seeds),
                levels=run.root.levels,
                runtime=run.runtime.numerics(),
                network=_network(search),
            ),
        )
    except ValueError as error:
        raise ConfigError([f"store.root: {error}"]) from None


def _network(search: Search) -> dict[str, Any]:
    """What a report says of the network: its input, and how often each weight is used."""
    task = search.tasks[search.seeds[0]]
    module = build_model(search.model, task, generator("uses"))
    return {"input_shape": list(task.input_shape), "uses": uses(module, task.input_shape)}


def _refer(row: Row, folder: RunFolder, display: _Display) -> Reference:
    """The row's place in the run, written to its folder."""
    reference = Reference(
        run_id=folder.run_id,
        seed=row.seed,
        variant=row.variant,
        draw=row.draw,
        level=row.level,
        parent_level=row.parent_level,
        density=row.stored.done["density"],
        search_steps=row.search_steps,
        options=row.options,
        training=row.stored.id,
    )
    try:
        replaced = folder.refer(reference)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    if replaced is not None and replaced.training != row.stored.id:
        display.say(
            f"seed {row.seed}, {row.variant}, level {row.level}: its parent was recomputed and "
            f"differs, so it was trained again ({replaced.training[:12]} -> {row.stored.id[:12]})"
        )
    return reference


def _mirror(row: Row, reference: Reference) -> dict[str, Any]:
    place = {k: getattr(reference, k) for k in ("seed", "variant", "draw", "level", "training")}
    shown = ("density", "status", "early_stop", "final", "seconds")
    return {**place, "reference": reference, **{k: row.stored.done[k] for k in shown}}


def _notice(rows: Sequence[Row], bypassed: frozenset[str], display: _Display) -> None:
    for row in rows:
        name = f"seed {row.seed}, {row.variant}, level {row.level}"
        if row.stored.status == "diverged":
            display.say(f"{name}: diverged")
        layers = row.stored.done["layers"]
        dead = [n for n, c in layers.items() if c["kept"] == 0 and n not in bypassed]
        if dead:
            display.say(f"{name}: layer collapse, nothing is left of {', '.join(dead)}")


def _end(folder: RunFolder, display: _Display, *, report: bool) -> Callable[[], dict[str, Any]]:
    """Table, verdict and report; gives the function that sums them up for the sinks."""
    # The only place where the package looks at its analysis.
    from analysis.compare import summary
    from analysis.evidence import evidence
    from analysis.findings import findings

    proof = evidence(folder)
    display.say(f"\n{summary(proof, columns())}\n")
    lines = [f"stored in  {folder.path}  (seed_*/<variant>/level_*: masks, starts, ends, metrics)"]
    if report:
        from analysis.report import write

        lines.append(f"report in  {write(folder, proof)}")
    lines.append(f"compare    python -m analysis.compare {shlex.quote(str(folder.path))}")
    for line in lines:
        display.say(line)
    return partial(findings, folder, proof)
