"""One clear line for each fault of a configuration: key, value given, values allowed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lth.config import GROUPS, MANY, RunConfig
from lth.paths import conf_dir


def explain(error: BaseException, overrides: Sequence[str]) -> list[str]:
    """The fault that ended Hydra's composition, in the form of all other faults."""
    if isinstance(error, MissingConfigException):
        return [_missing(error)]
    if isinstance(error, OverrideParseException):
        return [f"command line: got {error.override!r}, allowed: key=value ({_first(error)})"]
    ambiguous = [o for o in overrides if "Ambiguous value" in str(error) and o in str(error)]
    if ambiguous:
        key, _, value = max(ambiguous, key=len).partition("=")
        return [f"{key}: got {value!r}, allowed: one value (several make a sweep: -m)"]
    if "Config group override" in str(error):
        return misnamed([o for o in overrides if "=" in o and o[0] != "-"])
    for cause in _causes(error):
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return [_key_fault(cause, overrides)]
    return [f"configuration: {_first(error)}"]


def misnamed(overrides: Sequence[str]) -> list[str]:
    """Groups that are given anything but a name, or several where they take one.

    Of several Hydra would take the last, with options of those before it.
    """
    faults = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        group = override.key_or_group
        if group not in (*GROUPS, "experiments") or override.is_delete():
            continue
        if override.is_sweep_override():
            continue
        value = override.value()
        several = isinstance(value, list) and group not in (*MANY, "experiments")
        if several or value is None or isinstance(value, int | float):
            names = ", ".join(sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")))
            allowed = f"a list of {names}" if group in MANY else names
            why = " (one; several make a sweep: -m)" if several else ""
            given = override.get_value_string()
            faults.append(f"{group}: got {given}, allowed: {allowed}{why}")
    return faults


def _missing(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    path = path if isinstance(path, str) else ", ".join(path)
    group, _, name = path.rpartition("/")
    # Of a name in a list Hydra does not say what there is.
    files = (conf_dir() / group).glob("*.yaml") if group else ()
    options = sorted(error.options or (file.stem for file in files))
    if options:
        return f"{group}: got {name!r}, allowed: {', '.join(options)}{_close(name, options)}"
    known = [f.name for f in dataclasses.fields(RunConfig)]
    return f"{group or path}: got {name!r}, allowed: {', '.join(known)}{_close(group, known)}"


def _key_fault(error: OmegaConfBaseException, overrides: Sequence[str]) -> str:
    key = str(error.full_key)
    given = _given(key, overrides)
    root = re.split(r"[.\[]", key)[0]
    known = [f.name for f in dataclasses.fields(RunConfig)]
    if root not in known:
        return f"{key}: got {given}, allowed: {', '.join(known)}{_close(root, known)}"
    text = _first(error)
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and error.parent_node is not None:
        siblings = [str(k) for k in error.parent_node if not str(k).startswith("_")]
        allowed = ", ".join(siblings) or "no options"
        return f"{key}: got {given}, allowed: {allowed}{_close(str(error.key), siblings)}"
    kinds = {
        "converted to Integer": "a whole number",
        "converted to Float": "a number",
        "not a valid bool": "true or false",
        "converted to Boolean": "true or false",
        "is not Optional": "a value, not null",
        "not convertible to list": "a list such as [0,1]",
        "to a ListConfig": "a list such as [0,1]",
        "not a ListConfig": "a list such as [0,1]",
        "as a list": "a list such as [0,1]",
    }
    kind = next((v for k, v in kinds.items() if k in text), None)
    return f"{key}: got {given}, allowed: {kind}" if kind else f"{key}: got {given} ({text})"


def _given(key: str, overrides: Sequence[str]) -> str:
    # Of a key that is given twice the last holds.
    for override in reversed(overrides):
        name, _, value = override.lstrip("+~").partition("=")
        if name == key or key.startswith((f"{name}.", f"{name}[")):
            return repr(value) if name == key else value
    return "what the configuration holds"


def _close(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
