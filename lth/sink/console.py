"""The terminal: the plan, one progress display, notices and the table at the end."""

from __future__ import annotations

import shutil
import sys
import textwrap
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
            print(_hanging(line, columns()), flush=True)
        self._live["printed"] = time.monotonic()

    def progress(self, row: Mapping[str, Any]) -> None:
        """Show ``level variant seed step last_step loss done of seconds_left`` of a training."""
        parts = [
            f"level {row['level']} of {row['levels']}",
            f"training {row['done'] + 1} of {row['of']} ({row['variant']}, seed {row['seed']})",
            f"step {row['step']} of {row['last_step']}",
            f"loss {row['loss']:.4f}",
            f"{duration(row['seconds_left'])} left",
        ]
        width = columns()
        if width is not None:
            # A line that the terminal breaks could not be rewritten.
            while len(parts) > 3 and len(" | ".join(parts)) >= width:
                del parts[-2]
            print(f"\r\033[2K{' | '.join(parts)[: width - 1]}", end="", flush=True)
            self._live["open"] = True
        elif time.monotonic() - self._live["printed"] >= PAUSE:
            print(" | ".join(parts), flush=True)
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


def _hanging(line: str, width: int | None) -> str:
    """The plan's line broken under its values, at spaces only, so that paths stay whole."""
    if width is None:
        return line
    indent = " " * 13
    return textwrap.fill(
        line,
        max(width, 2 * len(indent)),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def columns() -> int | None:
    """The width of the terminal in characters; None where the output is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
