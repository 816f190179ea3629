"""W&B: mirrors a run while it happens, from a thread and a process of its own."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from lth.option import one_of
from lth.sink.life import Life, Options
from lth.sink.link import LinkError
from lth.store.run_folder import Reference

MODES = ("auto", "offline", "online", "disabled")
FILES = ("all", "masks", "none")

FINISH_SECONDS = 20.0
"""How long uploads are waited for at the end of a run."""

CLOSE_SECONDS = 30.0
"""After this W&B's process is killed, whatever it does."""


@dataclass(frozen=True, kw_only=True)
class Wandb:
    """One W&B run per seed and process life, and a summary; see docs/wandb.md.

    ``mode``: ``auto`` is the environment's WANDB_MODE, else online where a key
    is configured, else offline. ``project`` and ``entity``: null is the
    environment's WANDB_PROJECT and WANDB_ENTITY, else ``lth`` and the key's own
    entity. ``artifacts``: which files of every ticket are added. Nothing that
    W&B does ends a run, or holds it up for longer than 30 s at its end.
    """

    mode: str = "auto"
    project: str | None = None
    entity: str | None = None
    artifacts: str = "all"
    _live: list[_Background] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES)
        one_of("artifacts", self.artifacts, FILES)

    def options(self, finish_seconds: float = FINISH_SECONDS) -> Options:
        """With what the environment says where this leaves it open."""
        mode = self.mode
        if mode == "auto":
            mode = {"": "auto", "dryrun": "offline"}.get(said := _environment("MODE"), said)
        if mode not in MODES:
            raise LinkError(f"WANDB_MODE: got {mode!r}, allowed: online, offline, disabled")
        return Options(
            mode=mode,
            project=self.project or _environment("PROJECT") or "lth",
            entity=self.entity or _environment("ENTITY") or None,
            artifacts=self.artifacts,
            finish_seconds=finish_seconds,
        )

    def open(self, plan: Mapping[str, Any]) -> None:
        """Start a life, unless W&B is disabled or not installed."""
        say: Callable[[str], None] = plan["say"]
        try:
            options = self.options()
        except LinkError as error:
            say(warning(str(error)))
            return
        if options.mode == "disabled":
            return
        if find_spec("wandb") is None:
            say(warning("wandb is not installed"))
            return
        self._live.append(_Background(plan, options, say))

    def progress(self, row: Mapping[str, Any]) -> None:
        """W&B shows what is stored."""
        for live in self._live:
            live.warn()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Mirror a level of every seed, meanwhile."""
        for live in self._live:
            live.warn()
            for references in _by_seed(rows):
                live.put(partial(Life.level, references=references))

    def say(self, text: str) -> None:
        """Notices are for the terminal."""

    def close(self, status: str, findings: Callable[[], Mapping[str, Any]] | None) -> None:
        """Finish every W&B run, in at most 30 s, and say where they are."""
        while self._live:
            self._live.pop().close(0 if status == "done" else 1, findings)


class _Background:
    """A thread that feeds a life; the first thing that goes wrong ends it, and is said once."""

    def __init__(
        self, plan: Mapping[str, Any], options: Options, say: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._options = options
        self._say = say
        self._warned = False
        self._failure: str | None = None
        self._life: Life | None = None
        self._work: Queue[Callable[[Life], None] | None] = Queue()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: Callable[[Life], None]) -> None:
        self._work.put(item)

    def warn(self) -> None:
        """Say the first problem, once."""
        problems = self._life.link.problems if self._life else []
        text = problems[0] if problems else self._failure
        if text is not None and not self._warned:
            self._warned = True
            self._say(warning(text))

    def close(self, code: int, findings: Callable[[], Mapping[str, Any]] | None) -> None:
        if findings is not None:
            self.put(lambda life: life.summarize(findings()))
        self.put(lambda life: life.end(code=code))
        self._work.put(None)
        began = time.monotonic()
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            self._failure = f"not finished within {time.monotonic() - began:.0f} s"
        if self._life is not None:
            self._life.link.kill()
        self.warn()
        if self._life is not None:
            for line in where(self._life, self._plan["folder"].store_root):
                self._say(line)

    def _run(self) -> None:
        try:
            self._life = Life(self._plan["folder"], self._options, self._plan)
            self._life.begin(eager=True)
            while (item := self._work.get()) is not None:
                item(self._life)
        except Exception as error:
            # Whatever it is, it is one warning, and the run goes on without W&B.
            text = str(error) if isinstance(error, LinkError) else f"{error!r}"
            self._failure = self._failure or text.splitlines()[0]
            if self._life is not None:
                self._life.link.kill()


def warning(text: str) -> str:
    """The one line that a failure of W&B is."""
    return f"W&B: {text}; the run goes on"


def where(life: Life, root: Path) -> Iterator[str]:
    """How what was written can be looked at and uploaded."""
    urls = [a["url"] for a in life.opened if a["url"]]
    offline = [a["folder"] for a in life.opened if a["mode"] == "offline"]
    if urls:
        yield f"W&B        {urls[-1]}"
    if offline:
        last = offline[-1].rpartition("-")[2]
        run_id, folder = life.run_id, shlex.quote(str(root / "wandb"))
        yield f"W&B        wandb leet {folder}  (offline: look at it in the terminal)"
        yield f"upload     wandb sync {folder}/offline-run-*-{run_id}-*-{last}"


def _by_seed(rows: Sequence[Mapping[str, Any]]) -> list[list[Reference]]:
    found: dict[int, list[Reference]] = {}
    for row in rows:
        found.setdefault(row["seed"], []).append(row["reference"])
    return list(found.values())


def _environment(name: str) -> str:
    return os.environ.get(f"WANDB_{name}", "").strip()
