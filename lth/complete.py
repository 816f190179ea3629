"""Trainings in, stored Trainings out: train what the store lacks, commit each, share the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

from lth.commits import Commits
from lth.engine.loop import Loop
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import EARLY_STOP, Evaluate
from lth.event.keep import Keep
from lth.protocol import Engine, Event, Moment, Record, Result, Resume, Stop, Store
from lth.runtime import Runtime
from lth.spec import spec
from lth.store.stored import DamagedError, Stored, digests_of, state_file
from lth.training import Training


class ReplayError(Exception):
    """A stored Training cannot be replayed to add what it did not keep."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to record of a Training, beyond what its id fixes. Never changes its numbers.

    ``keep`` holds absolute updates; ``probes`` maps names to events;
    ``tensors`` asks for start and end where the store has dropped them.
    """

    keep: frozenset[int] = frozenset()
    keep_early_stop: bool = False
    keep_optimizer: bool = False
    test_curve: bool = False
    probes: Mapping[str, Event] = field(default_factory=dict)
    tensors: bool = False

    def kept(self) -> set[str]:
        """The names of the states to keep."""
        return {str(s) for s in self.keep} | ({EARLY_STOP} if self.keep_early_stop else set())

    def observed(self) -> dict[str, Any]:
        """What ``done.json`` says was recorded: the probes by name, with their options."""
        probes = {name: spec(probe) for name, probe in self.probes.items()}
        return {"test_curve": self.test_curve, "probes": probes}

    def conditions(self) -> dict[str, Any]:
        """What a checkpoint must have watched too, for its record to be whole."""
        states = {"kept": sorted(self.kept()), "optimizer": self.keep_optimizer}
        return {**states, **self.observed()}


@dataclass(kw_only=True)
class Workshop:
    """Completes Trainings: the engine, the store and what to say meanwhile.

    ``observe(training)`` gives further events that only watch (progress).
    ``say(text)`` takes one-line notices (damage found, waiting for a lock,
    where it ``waits_aloud``). ``processes`` is how many share a run's work.
    """

    store: Store
    engine: Engine = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)
    checkpoint: Interval = field(default_factory=lambda: Interval(seconds=60.0))
    observe: Callable[[Training], Sequence[Event]] = lambda training: ()
    say: Callable[[str], None] = print
    committed: Callable[[Training, Stored], None] = lambda training, stored: None
    waits_aloud: bool = True
    processes: int = 1

    def complete(
        self, trainings: Sequence[Training], watch: Mapping[str, Watch] | Watch | None = None
    ) -> list[Stored]:
        """The stored result of each Training, trained now where the store lacks it.

        ``watch`` is one for all or by id. Where another process holds a
        Training, the others are trained first and then it is waited for.
        """
        return self._complete(trainings, watch, parts=1, wait=True) or []

    def attempt(
        self,
        trainings: Sequence[Training],
        watch: Mapping[str, Watch] | Watch | None = None,
        *,
        parts: int = 1,
    ) -> list[Stored] | None:
        """The same without waiting: None where another process is at work on one of them.

        What nobody is at is trained all the same. ``parts``: among how many
        processes they are divided, before the engine divides them further.
        """
        return self._complete(trainings, watch, parts=parts, wait=False)

    def _complete(
        self,
        trainings: Sequence[Training],
        watch: Mapping[str, Watch] | Watch | None,
        *,
        parts: int,
        wait: bool,
    ) -> list[Stored] | None:
        unique = {t.id: t for t in trainings}
        wanted = {i: _watch_of(watch, i) for i in unique}
        done: dict[str, Stored] = {}
        groups = [
            [t.id for t in group]
            for part in shares(list(unique.values()), parts)
            for group in self.engine.groups(part, self.runtime)
        ]
        with Commits() as commits:
            attempt = partial(self._attempt, unique, wanted, done, commits)
            while groups:
                waiting = [g for g in groups if not attempt(g, wait=False)]
                if len(waiting) == len(groups):
                    if not wait:
                        return None
                    # Whoever waits holds nothing that others may be waiting for.
                    commits.finish()
                    if self.waits_aloud:
                        names = ", ".join(i[:12] for i in waiting[0])
                        self.say(
                            f"waiting for another process, which is at work on Training {names}"
                        )
                    attempt(waiting.pop(0), wait=True)
                groups = waiting
        return [done[t.id] for t in trainings]

    def _attempt(
        self,
        trainings: Mapping[str, Training],
        wanted: Mapping[str, Watch],
        done: dict[str, Stored],
        commits: Commits,
        group: Sequence[str],
        *,
        wait: bool,
    ) -> bool:
        """Complete one group; False where another process is at work on it.

        What was trained is committed in the background, under its locks.
        """
        found = {i: self.find(i, wanted[i]) for i in group}
        if all(found.values()):
            done.update({i: s for i, s in found.items() if s is not None})
            return True
        with ExitStack() as locks:
            for i in sorted(group):
                if not locks.enter_context(self.store.lock(i, wait=wait)):
                    return False
            # Another process may have finished it while this one got the lock.
            stored = {i: self._stored(i) for i in group}
            try:
                for result in self._train([trainings[i] for i in group if not stored[i]], wanted):
                    self._commit(result, wanted[result.training.id], done, commits)
                for i, old in stored.items():
                    if old is not None:
                        lacks = _missing_states(old, wanted[i]) or _lacks_rows(old, wanted[i])
                        done[i] = self._replay(trainings[i], old, wanted[i]) if lacks else old
            except BaseException:
                commits.wait()
                raise
            commits.release(locks.pop_all())
        return True

    def _commit(
        self, result: Result, watch: Watch, done: dict[str, Stored], commits: Commits
    ) -> None:
        def committed(stored: Stored) -> None:
            done[stored.id] = stored
            self.committed(result.training, stored)

        put = partial(self.store.put, result, observed=watch.observed())
        commits.add(put, then=committed)

    def _train(self, group: Sequence[Training], watches: Mapping[str, Watch]) -> Iterable[Result]:
        """Train from the start or from checkpoints, and keep checkpoints meanwhile."""
        if not group:
            return ()
        return self.engine.train(
            group,
            events=lambda t: self._events(t, watches[t.id]),
            resume=lambda t: self._resume(t, watches[t.id]),
            runtime=self.runtime,
        )

    def _events(self, training: Training, watch: Watch) -> list[Event]:
        conditions = self._conditions(training, watch)
        return [
            Evaluate(test_curve=watch.test_curve, keep=watch.keep_early_stop),
            Keep(at=watch.keep, optimizer=watch.keep_optimizer),
            *watch.probes.values(),
            *self.observe(training),
            Checkpoint(
                interval=self.checkpoint,
                save=lambda t, resume: self.store.save_checkpoint(t, resume, conditions),
            ),
        ]

    def _conditions(self, training: Training, watch: Watch) -> dict[str, Any]:
        """What must be equal for a checkpoint to be gone on from."""
        numerics = self.engine.numerics(self.runtime, training)
        return {"numerics": numerics, "watch": watch.conditions()}

    def _resume(self, training: Training, watch: Watch) -> Resume | None:
        try:
            return self.store.load_checkpoint(training, self._conditions(training, watch))
        except DamagedError as damage:
            self.say(f"damaged: {damage}; this training starts again")
            return None

    def _stored(self, training_id: str) -> Stored | None:
        """What the store has; damaged Trainings are named and discarded."""
        try:
            return self.store.get(training_id)
        except DamagedError as damage:
            self.say(f"damaged: {damage}; it is recomputed")
            self.store.discard(training_id)
            return None

    def find(self, training_id: str, watch: Watch) -> Stored | None:
        """The stored Training where it has all that is to be watched."""
        try:
            stored = self.store.get(training_id)
            if stored is None or _missing_states(stored, watch) or _lacks_rows(stored, watch):
                return None
        except DamagedError:
            return None
        return stored

    def _replay(self, training: Training, old: Stored, watch: Watch) -> Stored:
        """Run a stored Training again to record what was not recorded the first time."""
        states, first = _missing_states(old, watch), training.first_step
        if states == {str(first)} and not (
            _lacks_rows(old, watch) or watch.keep_optimizer or training.events
        ):
            # Where it began is known without training.
            start = replace(training.start, step=first, optimizer=None)
            return self.store.amend(old, {str(first): start})
        repeating = getattr(self.engine, "repeating", lambda numerics: self.engine)
        if (engine := repeating(old.done["numerics"])) != self.engine:
            return replace(self, engine=engine)._replay(training, old, watch)
        numerics = self.engine.numerics(self.runtime, training)
        differing = [
            f"{k} {old.done['numerics'].get(k)} then, {v} now"
            for k, v in numerics.items()
            if old.done["numerics"].get(k) != v
        ]
        if differing:
            raise ReplayError(
                f"Training {training.id[:12]} did not record what is asked for now, and cannot be "
                f"replayed bit for bit: {'; '.join(differing)}"
            )
        if _lacks_rows(old, watch) or not all(s.isdigit() for s in states):
            return self._replay_whole(training, old, watch)
        steps = frozenset(int(s) for s in states)
        # The next evaluation tells whether the states before it can be trusted.
        last = min(s for s in training.grid() if s >= max(steps))
        self.say(f"replaying Training {training.id[:12]} to step {last} for what it did not keep")
        keep = Keep(at=steps, optimizer=watch.keep_optimizer)
        events: list[Event] = [Evaluate(), keep, _StopAt(last)]
        (result,) = self.engine.train(
            [training], events=lambda t: events, resume=lambda t: None, runtime=self.runtime
        )
        _check_prefix(training, result.record, old)
        kept = {str(s): result.record.states[str(s)] for s in sorted(steps)}
        return self.store.amend(old, kept)

    def _replay_whole(self, training: Training, old: Stored, watch: Watch) -> Stored:
        self.say(f"replaying Training {training.id[:12]} to record what was not recorded")
        observed = old.done["observed"]
        union = Watch(
            keep=watch.keep | {int(s) for s in old.kept() if s.isdigit()},
            keep_early_stop=watch.keep_early_stop or EARLY_STOP in old.kept(),
            keep_optimizer=watch.keep_optimizer or _keeps_optimizer(old),
            test_curve=watch.test_curve or observed["test_curve"],
            probes=watch.probes,
        )
        (result,) = self._train([training], {training.id: union})
        _check_prefix(training, result.record, old)
        if digests_of(result) != old.done["digests"]:
            raise ReplayError(f"the replay of Training {training.id[:12]} ended elsewhere")
        # What other probes saw and kept then they would see again.
        result.record.probes = {n: old.probe(n) for n in old.probes()} | result.record.probes
        named = {n for n in old.kept() if not n.isdigit() and n != EARLY_STOP}
        result.record.states = {n: old.state(n) for n in named} | result.record.states
        probes = observed["probes"] | union.observed()["probes"]
        return self.store.put(result, observed={**union.observed(), "probes": probes})


@dataclass(frozen=True)
class _StopAt:
    at: int

    def steps(self, training: Training) -> Sequence[int]:
        return [self.at]

    def __call__(self, moment: Moment, record: Record) -> Stop:
        return Stop()


def shares(trainings: Sequence[Training], processes: int) -> list[Sequence[Training]]:
    """Neighbours in as many parts, of sizes that differ by one at most; empty ones left out."""
    size, more = divmod(len(trainings), processes)
    ends = [i * size + min(i, more) for i in range(processes + 1)]
    return [trainings[a:b] for a, b in pairwise(ends) if a < b]


def _watch_of(watch: Mapping[str, Watch] | Watch | None, training_id: str) -> Watch:
    if isinstance(watch, Mapping):
        return watch.get(training_id, Watch())
    return watch or Watch()


def _missing_states(stored: Stored, watch: Watch) -> set[str]:
    """The states to be kept that the training passed and did not keep (as asked for).

    Those that the store has dropped since are missed only where ``watch.tensors`` says so.
    """
    done, kept = stored.done, stored.kept()
    # Not the step at which a training diverged, nor 0 of one that starts at k.
    stop = done["first_step"] + done["updates"] + (stored.status == "done")
    passed = {str(s) for s in watch.keep if done["first_step"] <= s < stop}
    if watch.keep_early_stop and done["early_stop"] is not None:
        passed.add(EARLY_STOP)
    dropped = stored.dropped
    if watch.tensors:
        passed |= {w for w in ("start", "end") if state_file(w) in dropped}
    else:
        passed = {s for s in passed if state_file(s) not in dropped}
    if watch.keep_optimizer:
        kept -= {s for s in kept if s.isdigit() and stored.state(s).optimizer is None}
    return passed - kept


def _lacks_rows(stored: Stored, watch: Watch) -> bool:
    old, new = stored.done["observed"], watch.observed()
    if new["test_curve"] and not old["test_curve"]:
        return True
    return any(old["probes"].get(name) != probe for name, probe in new["probes"].items())


def _keeps_optimizer(stored: Stored) -> bool:
    steps = (s for s in stored.kept() if s.isdigit())
    return any(stored.state(s).optimizer is not None for s in steps)


def _check_prefix(training: Training, record: Record, old: Stored) -> None:
    """A replay must repeat the stored losses to the last bit (a diverged one ends with NaN)."""
    for new, stored in zip(record.metrics, old.metrics(), strict=False):
        if str(new["val_loss"]) != str(stored["val_loss"]):
            raise ReplayError(
                f"the replay of Training {training.id[:12]} left its stored curve at step "
                f"{int(new['step'])}, so its states cannot be trusted"
            )
