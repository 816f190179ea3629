"""The terminal: the plan, one progress display, notices and the table at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PAUSE = 10.0
"""Seconds between two progress lines where there is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Console:
    """On a terminal one line that is rewritten; in a log file or CI a line now and then."""

    _live: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def open(self, plan: Mapping[str, Any]) -> None:
        """Say what is going to happen."""
        for line in plan["text"]:
            print(line, flush=True)
        self._live["printed"] = time.monotonic()

    def progress(self, row: Mapping[str, Any]) -> None:
        """Show ``level variant seed step last_step loss done of seconds_left`` of a training."""
        text = (
            f"level {row['level']} of {row['levels']} | training {row['done'] + 1} of {row['of']} "
            f"({row['variant']}, seed {row['seed']}) | step {row['step']} of {row['last_step']} | "
            f"loss {row['loss']:.4f} | {duration(row['seconds_left'])} left"
        )
        if sys.stdout.isatty():
            print(f"\r\033[2K{text}", end="", flush=True)
            self._live["open"] = True
        elif time.monotonic() - self._live["printed"] >= PAUSE:
            print(text, flush=True)
            self._live["printed"] = time.monotonic()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """A stored level; the table at the end shows it."""

    def say(self, text: str) -> None:
        """A notice on a line of its own."""
        if self._live.pop("open", False):
            print("\r\033[2K", end="")
        print(text, flush=True)

    def close(self, status: str, findings: Callable[[], Mapping[str, Any]] | None) -> None:
        """End the progress line."""
        if self._live.pop("open", False):
            print("\r\033[2K", end="", flush=True)


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
