"""Checks of a component's options; their faults name the option, what was given and the allowed."""

from __future__ import annotations

from collections.abc import Iterable


def one_of(name: str, value: object, allowed: Iterable[object], why: str = "") -> None:
    """ValueError unless ``value`` is one of ``allowed``; ``why`` says why there are no others."""
    if value not in (options := list(allowed)):
        reason = f" ({why})" if why else ""
        raise ValueError(f"{name}: got {value!r}, allowed: {', '.join(map(str, options))}{reason}")


def at_least(name: str, value: float, least: float) -> None:
    """ValueError unless ``value`` is ``least`` or more."""
    if not value >= least:
        raise ValueError(f"{name}: got {value}, allowed: {least} or more")
