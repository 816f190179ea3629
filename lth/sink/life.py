"""One process life of a run on W&B: a W&B run per seed and a summary, fed from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lth.sink.ledger import Ledger
from lth.sink.link import Link
from lth.sink.mirror import Mirror, place, summary, summary_digest
from lth.store.run_folder import Reference, RunFolder
from lth.store.stored import DamagedError

START_SECONDS = 20.0
"""How long W&B is waited for before a life goes on without it."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a life goes. ``finish_seconds``: how long uploads are waited for; 0 is without end."""

    mode: str
    project: str
    entity: str | None
    artifacts: str
    finish_seconds: float


_Place: TypeAlias = tuple[str, int, int]
"""Variant, draw and level: the name of a Training within its seed."""


@dataclass(kw_only=True)
class _Seed:
    """What the W&B run of a seed shows; ``run`` is None where nothing new is to be shown."""

    shown: dict[_Place, Reference] = field(default_factory=dict)
    run: str | None = None


class Life:
    """Mirrors what the store holds first, then every level that is added.

    Where W&B holds all of a seed already, no W&B run is made until there is more.
    """

    def __init__(self, folder: RunFolder, options: Options, facts: Mapping[str, Any]) -> None:
        """``facts``: the full ``config``, ``seeds``, ``experiment`` and ``sweep``."""
        self._folder = folder
        self.run_id = folder.run_id
        self._options = options
        self._facts = facts
        self._mirror = Mirror(folder, options.artifacts)
        self._ledger = Ledger(folder)
        self._number: int | None = None
        self._seeds: dict[int, _Seed] = {}
        self._summary: tuple[str, str] | None = None
        self.opened: list[dict[str, Any]] = []
        self.link = Link(folder.store_root)

    def begin(self, *, eager: bool) -> None:
        """Connect, and catch up with the store. ``eager`` opens runs of seeds without a level."""
        question = {"do": "connect", "mode": self._options.mode}
        self._mode = self.link.ask(question, "connected", START_SECONDS)["connected"]
        done = self._ledger.shown(self._target(self._mode))
        held = self._mirror.levels(self._facts["seeds"])
        for number in self._facts["seeds"]:
            seed = self._seeds[number] = _Seed()
            levels = [references for (n, _), references in held.items() if n == number]
            if self._is_shown(levels, done.get(f"s{number}")):
                seed.shown = {place(r): r for references in levels for r in references}
                continue
            if eager:
                self._open_seed(number)
            for references in levels:
                try:
                    self.level(references)
                except DamagedError:
                    # A run that is under way computes it again, and then it is shown.
                    if not eager:
                        raise

    def _is_shown(self, levels: Sequence[Sequence[Reference]], digest: str | None) -> bool:
        if digest is None or not levels:
            return False
        try:
            return digest == self._mirror.digest([r for references in levels for r in references])
        except DamagedError:
            return False

    def level(self, references: Sequence[Reference]) -> None:
        """A level of one seed, or a part of it; what is shown already is not shown again."""
        number = references[0].seed
        seed = self._seeds[number]
        new = {place(r): r for r in references if seed.shown.get(place(r)) != r}
        if not new:
            return
        if seed.run is None:
            self._open_seed(number)
            # A new W&B run begins with what earlier ones have shown.
            before = [r for key, r in seed.shown.items() if key not in new]
            seed.shown = {}
            for level in sorted({r.level for r in before}):
                self._show(seed, {place(r): r for r in before if r.level == level})
        self._show(seed, new)

    def _show(self, seed: _Seed, new: Mapping[_Place, Reference]) -> None:
        assert seed.run is not None
        (level,) = {r.level for r in new.values()}
        known = {**{k: r for k, r in seed.shown.items() if r.level == level}, **new}
        for message in self._mirror.level(seed.run, list(known.values()), set(new)):
            self.link.send(message)
        seed.shown |= new

    def summarize(self, findings: Mapping[str, Any]) -> None:
        """The run of job type ``summary``, where it says anything new."""
        digest = summary_digest(findings)
        if self._ledger.shown(self._target(self._mode)).get("summary") == digest:
            return
        run = self._open("summary", "summary", "summary", {})
        for message in summary(run, findings):
            self.link.send(message)
        self._summary = (run, digest)

    def end(self, *, code: int) -> None:
        """Finish every run; what has arrived whole is noted in the ledger."""
        self.link.send({"do": "finish", "code": code})
        answers = self.link.end()
        self.opened = [a for a in answers if "opened" in a]
        finished = {a["finished"] for a in answers if "finished" in a}
        for number, seed in self._seeds.items():
            if seed.run in finished and seed.shown:
                digest = self._mirror.digest(list(seed.shown.values()))
                self._note(f"s{number}", digest, str(seed.run))
        if self._summary is not None and self._summary[0] in finished:
            run, digest = self._summary
            self._note("summary", digest, run)

    def _target(self, mode: str) -> str:
        return f"{mode}:{self._options.entity or ''}/{self._options.project}"

    def _note(self, part: str, digest: str, run: str) -> None:
        # A server that was not reached has left an offline run.
        (mode,) = (a["mode"] for a in self.opened if a["opened"] == run)
        self._ledger.note(self._target(mode), part, digest=digest, run=run)

    def _open_seed(self, seed: int) -> None:
        self._seeds[seed].run = self._open(f"s{seed}", f"seed {seed}", "seed", {"seed": seed})

    def _open(self, part: str, name: str, job_type: str, facts: Mapping[str, Any]) -> str:
        if self._number is None:
            self._number = self._ledger.next_life()
        run = f"{self._folder.run_id}-{part}-{self._number}"
        experiment, sweep = self._facts["experiment"], self._facts["sweep"]
        names = {
            "run_id": self._folder.run_id,
            "life": self._number,
            "experiment": experiment,
            "sweep": sweep,
            **self._mirror.names(),
            **facts,
        }
        self.link.send(
            {
                "do": "open",
                "run": run,
                "mode": self._mode,
                "finish_seconds": self._options.finish_seconds,
                "init": {
                    "project": self._options.project,
                    "entity": self._options.entity,
                    "dir": str(self._folder.store_root.absolute()),
                    "group": self._folder.run_id,
                    "name": f"{experiment or self._folder.run_id[:8]} {name}",
                    "job_type": job_type,
                    "tags": self._mirror.tags(experiment, sweep),
                    "config": {**self._facts["config"], "lth": names},
                },
            }
        )
        return run
