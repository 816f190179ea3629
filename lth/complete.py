"""Trainings in, stored Trainings out: train what the store lacks, commit each, share the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from lth.engine.loop import Loop
from lth.event.checkpoint import Checkpoint, Interval
from lth.event.evaluate import Evaluate
from lth.event.keep import EARLY_STOP, Keep
from lth.protocol import Engine, Event, Moment, Record, Resume, Stop, Store
from lth.runtime import Runtime
from lth.store.stored import DamagedError, Stored
from lth.training import Training


class ReplayError(Exception):
    """A stored Training cannot be replayed to add what it did not keep."""


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What to record of a Training, beyond what its id fixes. Never changes its numbers.

    ``keep`` holds absolute updates; ``probes`` maps names to events.
    """

    keep: frozenset[int] = frozenset()
    keep_early_stop: bool = False
    keep_optimizer: bool = False
    test_curve: bool = False
    probes: Mapping[str, Event] = field(default_factory=dict)

    def kept(self) -> set[str]:
        """The names of the states to keep."""
        return {str(s) for s in self.keep} | ({EARLY_STOP} if self.keep_early_stop else set())

    def observed(self) -> dict[str, Any]:
        """What ``done.json`` says was recorded."""
        return {"test_curve": self.test_curve, "probes": sorted(self.probes)}


@dataclass(kw_only=True)
class Workshop:
    """Completes Trainings: the engine, the store and what to say meanwhile.

    ``observe(training)`` gives further events that only watch (progress).
    ``say(text)`` takes one-line notices (damage found, waiting for a lock).
    """

    store: Store
    engine: Engine = field(default_factory=Loop)
    runtime: Runtime = field(default_factory=Runtime)
    checkpoint: Interval = field(default_factory=lambda: Interval(seconds=60.0))
    observe: Callable[[Training], Sequence[Event]] = lambda training: ()
    say: Callable[[str], None] = print
    committed: Callable[[Training, Stored], None] = lambda training, stored: None

    def complete(
        self, trainings: Sequence[Training], watch: Mapping[str, Watch] | Watch | None = None
    ) -> list[Stored]:
        """The stored result of each Training, trained now where the store lacks it.

        ``watch`` is one for all or by id. Where another process holds a
        Training, the others are trained first and then it is waited for.
        """
        unique = {t.id: t for t in trainings}
        wanted = {i: _watch_of(watch, i) for i in unique}
        done: dict[str, Stored] = {}
        groups = [[t.id for t in g] for g in self.engine.groups(list(unique.values()))]
        while groups:
            waiting = [g for g in groups if not self._attempt(g, unique, wanted, done, wait=False)]
            if len(waiting) == len(groups):
                self._attempt(waiting.pop(0), unique, wanted, done, wait=True)
            groups = waiting
        return [done[t.id] for t in trainings]

    def _attempt(
        self,
        group: Sequence[str],
        trainings: Mapping[str, Training],
        wanted: Mapping[str, Watch],
        done: dict[str, Stored],
        *,
        wait: bool,
    ) -> bool:
        """Complete one group; False where another process is at work on it."""
        found = {i: self._find(trainings[i], wanted[i]) for i in group}
        if all(s is not None for s in found.values()):
            done.update({i: s for i, s in found.items() if s is not None})
            return True
        with ExitStack() as locks:
            for i in sorted(group):
                if not locks.enter_context(self.store.lock(i, wait=wait)):
                    return False
            # Another process may have finished it while this one got the lock.
            found = {i: self._find(trainings[i], wanted[i]) for i in group}
            lacking = [trainings[i] for i in group if found[i] is None]
            done.update({i: s for i, s in found.items() if s is not None})
            stored = {t.id: self._stored(t) for t in lacking}
            fresh = [t for t in lacking if stored[t.id] is None]
            self._train(fresh, wanted, done)
            for training in lacking:
                old = stored[training.id]
                if old is not None:
                    done[training.id] = self._replay(training, old, wanted[training.id])
        return True

    def _train(
        self, group: Sequence[Training], wanted: Mapping[str, Watch], done: dict[str, Stored]
    ) -> None:
        if not group:
            return
        for result in self.engine.train(
            group,
            events=lambda t: self._events(t, wanted[t.id]),
            resume=self._resume,
            runtime=self.runtime,
        ):
            training = result.training
            observed = wanted[training.id].observed()
            done[training.id] = self.store.put(result, observed=observed)
            self.committed(training, done[training.id])

    def _events(self, training: Training, watch: Watch) -> list[Event]:
        return [
            Evaluate(test_curve=watch.test_curve),
            Keep(at=watch.keep, early_stop=watch.keep_early_stop, optimizer=watch.keep_optimizer),
            *watch.probes.values(),
            *self.observe(training),
            Checkpoint(interval=self.checkpoint, save=self._save),
        ]

    def _save(self, training: Training, resume: Resume) -> None:
        self.store.save_checkpoint(training, resume, self.engine.numerics(self.runtime, training))

    def _resume(self, training: Training) -> Resume | None:
        numerics = self.engine.numerics(self.runtime, training)
        try:
            return self.store.load_checkpoint(training, numerics)
        except DamagedError as damage:
            self.say(f"damaged: {damage}; this training starts again")
            return None

    def _stored(self, training: Training) -> Stored | None:
        """What the store has; damaged Trainings are named and discarded."""
        try:
            return self.store.get(training.id)
        except DamagedError as damage:
            self.say(f"damaged: {damage}; it is recomputed")
            self.store.discard(training.id)
            return None

    def _find(self, training: Training, watch: Watch) -> Stored | None:
        """The stored Training where it has all that is to be watched."""
        try:
            stored = self.store.get(training.id)
        except DamagedError:
            return None
        if stored is None or self._lacks(stored, watch):
            return None
        return stored

    def _lacks(self, stored: Stored, watch: Watch) -> bool:
        return bool(_missing_states(stored, watch)) or _lacks_rows(stored, watch)

    def _replay(self, training: Training, old: Stored, watch: Watch) -> Stored:
        """Run a stored Training again to record what was not recorded the first time."""
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
        states = _missing_states(old, watch)
        if _lacks_rows(old, watch) or EARLY_STOP in states:
            return self._replay_whole(training, old, watch)
        last = max(int(s) for s in states)
        self.say(f"replaying Training {training.id[:12]} to step {last} for its state there")
        keep = Keep(at=frozenset(int(s) for s in states), optimizer=watch.keep_optimizer)
        events: list[Event] = [Evaluate(), keep, _StopAt(last)]
        (result,) = self.engine.train(
            [training], events=lambda t: events, resume=lambda t: None, runtime=self.runtime
        )
        _check_prefix(training, result.record, old)
        return self.store.amend(old, result.record.states)

    def _replay_whole(self, training: Training, old: Stored, watch: Watch) -> Stored:
        self.say(f"replaying Training {training.id[:12]} to record what was not recorded")
        steps = {int(s) for s in old.kept() - {EARLY_STOP}}
        known = set(old.done["observed"]["probes"]) - watch.probes.keys()
        if known:
            raise ReplayError(
                f"Training {training.id[:12]} also holds the probes {', '.join(sorted(known))}: "
                "name them too"
            )
        union = Watch(
            keep=watch.keep | steps,
            keep_early_stop=watch.keep_early_stop or EARLY_STOP in old.kept(),
            keep_optimizer=watch.keep_optimizer or _keeps_optimizer(old),
            test_curve=watch.test_curve or old.done["observed"]["test_curve"],
            probes=watch.probes,
        )
        (result,) = self.engine.train(
            [training],
            events=lambda t: self._events(t, union),
            resume=self._resume,
            runtime=self.runtime,
        )
        _check_prefix(training, result.record, old)
        stored = self.store.put(result, observed=union.observed())
        if stored.done["digests"] != old.done["digests"]:
            raise ReplayError(f"the replay of Training {training.id[:12]} ended elsewhere")
        return stored


@dataclass(frozen=True)
class _StopAt:
    at: int

    def steps(self, training: Training) -> Sequence[int]:
        return [self.at]

    def __call__(self, moment: Moment, record: Record) -> Stop:
        return Stop()


def _watch_of(watch: Mapping[str, Watch] | Watch | None, training_id: str) -> Watch:
    if isinstance(watch, Mapping):
        return watch.get(training_id, Watch())
    return watch or Watch()


def _missing_states(stored: Stored, watch: Watch) -> set[str]:
    if stored.status == "diverged":
        return set()
    kept = stored.kept()
    bare = {s for s in kept - {EARLY_STOP} if stored.state(s).optimizer is None}
    reached = range(stored.done["first_step"], stored.done["last_step"] + 1)
    # A step that the training never passes (0 of one that starts at k) cannot be kept.
    wanted = {s for s in watch.kept() if s == EARLY_STOP or int(s) in reached}
    return (wanted - kept) | ({s for s in wanted & bare} if watch.keep_optimizer else set())


def _lacks_rows(stored: Stored, watch: Watch) -> bool:
    observed = stored.done["observed"]
    if watch.test_curve and not observed["test_curve"]:
        return True
    return not set(watch.probes) <= set(observed["probes"])


def _keeps_optimizer(stored: Stored) -> bool:
    steps = stored.kept() - {EARLY_STOP}
    return any(stored.state(s).optimizer is not None for s in steps)


def _check_prefix(training: Training, record: Record, old: Stored) -> None:
    """A replay must repeat the stored losses to the last bit."""
    for new, stored in zip(record.metrics, old.metrics(), strict=False):
        if new["val_loss"] != stored["val_loss"]:
            raise ReplayError(
                f"the replay of Training {training.id[:12]} left its stored curve at step "
                f"{int(new['step'])}, so its states cannot be trusted"
            )
