"""From a composed configuration to checked, typed components."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import logging
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from lth import brought, distillation, protocol
from lth.config import (
    GROUPS,
    MANY,
    OPTIONAL_GROUPS,
    ConfigError,
    DistillationOptions,
    RunConfig,
    Streams,
    Transfer,
    run_id,
    semantic,
)
from lth.dataset.dataset import DataSet
from lth.event.checkpoint import Interval
from lth.event.evaluate import EARLY_STOP
from lth.fill import FILLS, ZERO
from lth.optimizer import ELEMENTWISE
from lth.optimizer import faults as optimizer_faults
from lth.runtime import Runtime
from lth.spec import Json, spec
from lth.step import Step
from lth.training import PRECISIONS
from lth.transfer import Source

RUNTIME: Mapping[str, tuple[str, ...]] = {
    "model": ("input_shape", "num_classes"),
    "optimizer": ("params",),
    "init": ("model", "generator"),
    "criterion": ("history", "mask", "forward", "batches", "generator"),
    "allocation": ("scores", "mask", "layers", "rate", "times", "keep"),
}
"""Arguments that the program supplies, where a plain function could also be given them."""

PROTOCOLS: Mapping[str, type] = {
    "dataset": DataSet,
    "init": protocol.Init,
    "lr": protocol.RateShape,
    "criterion": protocol.Criterion,
    "allocation": protocol.Allocation,
    "schedule": protocol.Schedule,
    "rewind": protocol.Rewind,
    "baseline": protocol.Baseline,
    "engine": protocol.Engine,
    "event": protocol.Event,
    "store": protocol.Store,
    "sink": protocol.Sink,
    "finder": protocol.Finder,
    "granularity": protocol.Granularity,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A checked configuration: the root's values, the components and the run's name.

    ``sources`` holds what is brought in from other runs, for each seed.

    ``config`` is what it was built from, as plain values: another process can build it again.
    """

    config: Mapping[str, Any]
    root: RunConfig
    components: Mapping[str, Any]
    specs: Mapping[str, Json]
    semantic: Mapping[str, Json]
    run_id: str
    runtime: Runtime
    sources: Mapping[int, Source]

    def __getattr__(self, name: str) -> Any:
        if name in GROUPS:
            return self.components[name]
        raise AttributeError(name)


def build(config: DictConfig | Mapping[str, Any]) -> Run:
    """Check everything that can be checked without the data; all faults come together.

    Raises ConfigError with one line for each fault: key, value given, values allowed.
    """
    faults: list[str] = []
    values: Any = config
    # Stored configurations may be older than a key.
    default = dataclasses.asdict(RunConfig())
    if isinstance(config, DictConfig):
        values = OmegaConf.to_container(config, resolve=True)
        faults += _unknown_keys(values, default)
        if faults:
            raise ConfigError(faults)
    root: dict[str, Any] = {n: values.get(n, default[n]) for n in default}
    root["ticket"] = brought.by_seed(root["ticket"], root["seeds"])
    components: dict[str, Any] = {}
    for group in GROUPS:
        node = root[group]
        if group in MANY:
            components[group] = {
                name: _component(group, f"{group}.{name}", child, faults)
                for name, child in (node or {}).items()
            }
        elif group in OPTIONAL_GROUPS and not node:
            components[group] = None
        else:
            components[group] = _component(group, group, node, faults)
    faults += _root_faults(root, components)
    specs: dict[str, Json] = {}
    if not faults:
        for group in (*GROUPS[:10], *OPTIONAL_GROUPS):
            specs[group] = _spec_of(group, components[group], faults)
    runtime = _runtime(root, faults)
    sources = {} if faults else brought.read(root, components["store"].root, faults)
    if faults:
        raise ConfigError(faults)
    assert runtime is not None
    named = semantic(root, specs, brought.digests(root["ticket"], sources))
    return Run(
        config={**values, "ticket": root["ticket"]},
        root=RunConfig(
            **{
                **root,
                "streams": Streams(**root["streams"]),
                "ticket": Transfer(**root["ticket"]),
                "distillation": DistillationOptions(**root["distillation"]),
            }
        ),
        components=components,
        specs=specs,
        semantic=named,
        run_id=run_id(named),
        runtime=runtime,
        sources=sources,
    )


def _runtime(root: Mapping[str, Any], faults: list[str]) -> Runtime | None:
    try:
        runtime = Runtime(
            device=root["device"],
            num_threads=root["num_threads"],
            deterministic=root["deterministic"],
        )
        with runtime.active(root["precision"]):
            return runtime
    except ValueError as error:
        faults.append(str(error))
        return None


def _spec_of(group: str, component: Any, faults: list[str]) -> Json:
    try:
        return spec(component)
    except ValueError as error:
        faults.append(f"{group}: {error}")
        return None


# Root keys


def _unknown_keys(values: Mapping[str, Any], default: Mapping[str, Any]) -> list[str]:
    """Keys that ``+key=value`` added to the typed root, which Hydra then lets pass."""
    parts = [("", values, default)]
    parts += [
        (f"{key}.", values[key], default[key])
        for key in ("streams", "ticket", "distillation")
        if key in values
    ]
    return [
        f"{prefix}{key}: got {_show(value)}, allowed: {', '.join(allowed)}"
        for prefix, given, allowed in parts
        for key, value in given.items()
        if key not in allowed
    ]


def _root_faults(root: Mapping[str, Any], components: Mapping[str, Any]) -> list[str]:
    faults = []

    def need(ok: bool, key: str, allowed: str) -> None:
        if not ok:
            faults.append(f"{key}: got {_show(root[key])}, allowed: {allowed}")

    seeds = root["seeds"]
    need(
        len(seeds) > 0 and len(set(seeds)) == len(seeds) and min(seeds, default=0) >= 0,
        "seeds",
        "a list of different whole numbers from 0, such as [0,1,2]",
    )
    need(root["levels"] >= 0, "levels", "0 or more")
    need(root["batch_size"] >= 1, "batch_size", "1 up to the size of the train split")
    need(root["score_steps"] >= 1, "score_steps", "1 or more")
    need(root["workers"] >= 1, "workers", "1 or more")
    need(root["order"] in ("per_level", "shared"), "order", "per_level, shared")
    need(root["endpoint"] in ("early_stop", "final"), "endpoint", "early_stop, final")
    need(root["precision"] in PRECISIONS, "precision", ", ".join(PRECISIONS))
    clip = root["grad_clip"]
    need(clip is None or 0 < clip < math.inf, "grad_clip", "null or above 0 and finite")
    need(0 <= root["label_smoothing"] < 1, "label_smoothing", "0 <= label_smoothing < 1")
    need(root["fill"] in FILLS, "fill", ", ".join(FILLS))
    if root["score_steps"] > 1:
        need(root["fill"] == ZERO, "fill", "zero (with score_steps above 1)")
    if getattr(components["finder"], "trains_weights", components["finder"] is not None):
        # Where its training prunes, every weight that it pruned moved to 0.
        allowed = ", ".join(f for f in FILLS if f != "by_movement")
        need(root["fill"] != "by_movement", "fill", f"{allowed} (with this finder)")
    low_high = root["verdict_density"]
    need(
        len(low_high) == 2 and 0 <= low_high[0] <= low_high[1] <= 1,
        "verdict_density",
        "[low,high], fractions with 0 <= low <= high <= 1",
    )
    for name, seed in root["streams"].items():
        if seed is not None and seed < 0:
            faults.append(f"streams.{name}: got {seed}, allowed: null or a seed from 0")
    steps = {k: _step(root[k], k, faults) for k in ("train_steps", "rewind_step", "warmup")}
    steps["eval_every"] = _step(root["eval_every"], "eval_every", faults)
    for key in ("train_steps", "eval_every"):
        need(steps[key] != Step(), key, "a step of at least 1it")
    for item in root["keep"]:
        if item != EARLY_STOP:
            _step(item, "keep", faults, extra=" or early_stop")
    if root["prune_at"] not in ("end", EARLY_STOP):
        _step(root["prune_at"], "prune_at", faults, extra=", end or early_stop")
    try:
        Interval.parse(root["checkpoint_every"])
    except ValueError as error:
        faults.append(f"checkpoint_every: {error}")
    try:
        parse_levels(root["baseline_levels"])
    except ValueError as error:
        faults.append(f"baseline_levels: {error}")
    faults += _distillation_faults(**root["distillation"])
    schedule = components["schedule"]
    if schedule is not None and root["levels"] > 0:
        try:
            schedule(root["levels"])
        except ValueError as error:
            faults.append(f"schedule.{error}")
    faults += brought.faults(root, components)
    rewind = components["rewind"]
    if getattr(rewind, "optimizer", "fresh") == "saved" and steps["rewind_step"] == Step():
        faults.append("rewind.optimizer: got 'saved', allowed: fresh (with rewind_step=0it)")
    return faults


def _distillation_faults(teacher: str | None, temperature: float, weight: float) -> list[str]:
    if teacher is None:
        options = {"temperature": temperature, "weight": weight}
        return [
            f"distillation.{name}: got {value}, allowed: only with a distillation.teacher"
            for name, value in options.items()
            if value != getattr(DistillationOptions, name)
        ]
    try:
        distillation.check(temperature=temperature, weight=weight)
    except ValueError as error:
        return [f"distillation.{error}"]
    return []


def parse_levels(value: Any) -> str | list[int | float]:
    """``all``, or a list of levels (whole numbers) and densities (fractions below 1)."""
    if value == "all":
        return "all"
    good = isinstance(value, list) and all(
        not isinstance(v, bool)
        and ((isinstance(v, int) and v >= 1) or (isinstance(v, float) and 0 < v < 1))
        for v in value
    )
    if not good:
        raise ValueError(
            f"got {_show(value)}, allowed: all, or a list of levels from 1 and densities below 1"
        )
    return list(value)


def _step(value: Any, key: str, faults: list[str], extra: str = "") -> Step:
    try:
        return Step.parse(value)
    except ValueError as error:
        faults.append(f"{key}: {error}{extra}")
        return Step(iterations=1)


# Components


def _component(group: str, key: str, node: Any, faults: list[str]) -> Any:
    """One component, or None with its faults noted."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        faults.append(f"{key}: got {_show(node)}, allowed: {_options(group)} or a _target_")
        return None
    before = len(faults)
    if group == "optimizer":
        # Another optimizer's options would only distract from its being the wrong one.
        faults += _optimizer_faults(key, str(node["_target_"]))
        if len(faults) > before:
            return None
    target = _check_node(key, node, faults, RUNTIME.get(group, ()))
    if target is None or len(faults) > before:
        return None
    # A class of components is instantiated now; models, optimizers and plain
    # functions are called later with what only the run knows.
    later = group in ("model", "optimizer") or not inspect.isclass(target)
    try:
        component = instantiate(dict(node), _convert_="all", _partial_=later)
    except (InstantiationException, HydraException, TypeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        faults.append(f"{key}.{cause}" if ": got" in str(cause) else f"{key}: {cause}")
        return None
    if group == "optimizer":
        faults += [f"{key}.{fault}" for fault in optimizer_faults(component)]
    else:
        faults += _protocol_faults(group, key, component, target)
    return component


def _check_node(
    key: str, node: Mapping[str, Any], faults: list[str], runtime: Sequence[str] = ()
) -> Any:
    """Bind a node's names and types to its target's signature, and its children's to theirs."""
    path = node["_target_"]
    try:
        with _quiet():
            target = get_object(path)
        signature = inspect.signature(target)
    except Exception as error:
        # Whatever importing a user's module raises is a fault of this key.
        cause = error.__cause__ or error
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        faults.append(f"{key}._target_: got {path!r}, allowed: an importable class ({reason})")
        return None
    parameters = dict(signature.parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {k: v for k, v in node.items() if not (k.startswith("_") and k.endswith("_"))}
    settable = [n for n in parameters if n not in runtime and n != "self"]
    for name, value in given.items():
        if name in runtime:
            faults.append(f"{key}.{name}: got {_show(value)}, allowed: nothing (the run sets it)")
        elif name not in parameters and not open_ended:
            close = get_close_matches(name, settable, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            names = ", ".join(settable) or "no options"
            faults.append(f"{key}.{name}: got {_show(value)}, allowed: {names}{hint}")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.KEYWORD_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if required and name not in given and name not in runtime:
            faults.append(f"{key}.{name}: got nothing, allowed: a value (it is required)")
    hints = _hints(target)
    for name, value in given.items():
        for child_key, child in _children(f"{key}.{name}", value):
            _check_node(child_key, child, faults)
        hint = hints.get(name, Any)
        if name in parameters and not _fits(value, hint):
            faults.append(f"{key}.{name}: got {_show(value)}, allowed: {_name(hint)}")
    return target


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hydra logs what it could not import, before it raises what we say in one line."""
    log = logging.getLogger("hydra.utils")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _children(key: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield key, value
        else:
            for name, child in value.items():
                yield from _children(f"{key}.{name}", child)
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from _children(f"{key}[{index}]", child)


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except Exception:
        # A user's annotations may not resolve; then their types are theirs to check.
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a YAML value can be of a type. A bool is no number; an int is a float."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, a) for a in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint in (None, type(None)):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if hint in (Step, Path):
        return isinstance(value, str)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        values = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(_fits(v, values) for v in value.values())
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        items = [a for a in arguments if a is not Ellipsis]
        if not isinstance(value, list):
            return False
        if kind is tuple and items and Ellipsis not in arguments:
            return len(items) == len(value) and all(map(_fits, value, items))
        return all(_fits(v, items[0] if items else Any) for v in value)
    # Anything else (a Protocol, a tensor) cannot be written in YAML except by _target_.
    return hint is Any or not isinstance(value, bool | int | float | str | list | Mapping)


def _name(hint: Any) -> str:
    """A type in words; what YAML cannot write (a tensor, a Protocol) is left out of a union."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        written = [a for a in typing.get_args(hint) if _WORDS.get(a) or typing.get_args(a)]
        return " or ".join(_name(a) for a in written) or "null"
    if hint in _WORDS:
        return _WORDS[hint]
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Literal:
        return ", ".join(map(str, arguments))
    if inspect.isclass(kind) and issubclass(kind, Mapping) and len(arguments) == 2:
        return f"names with {_name(arguments[1])} each, such as '{{a:...,b:...}}'"
    if kind is tuple and arguments and Ellipsis not in arguments:
        return f"a list of {len(arguments)}: {', '.join(map(_name, arguments))}"
    if inspect.isclass(kind) and issubclass(kind, Sequence) and arguments:
        return f"a list, each {_name(arguments[0])}"
    text = str(hint).replace("typing.", "").replace("collections.abc.", "")
    return text.replace("lth.step.", "").replace("lth.protocol.", "")


_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Step: "a step such as 500it or 3ep",
    Path: "a path",
    type(None): "null",
}


def _protocol_faults(group: str, key: str, component: Any, target: Any) -> list[str]:
    if group == "model":
        missing = [n for n in RUNTIME[group] if n not in _accepts(target)]
        if missing and not _open_ended(target):
            return [
                f"{key}._target_: got {target.__qualname__}, allowed: a class that takes "
                f"{' and '.join(RUNTIME[group])}"
            ]
        return []
    wanted = PROTOCOLS[group]
    call = vars(wanted).get("__call__")
    if call is None:
        fits = isinstance(component, wanted)
    else:
        fits = isinstance(component, wanted) and _binds(component, call)
    if fits:
        return []
    return [f"{key}._target_: got {target.__qualname__}, allowed: a {wanted.__name__}"]


def _optimizer_faults(key: str, path: str) -> list[str]:
    allowed = [f"torch.optim.{name}" for name in ELEMENTWISE]
    if path in allowed:
        return []
    return [f"{key}._target_: got {path!r}, allowed: {', '.join(allowed)} (elementwise)"]


def _accepts(target: Any) -> set[str]:
    return set(inspect.signature(target).parameters)


def _open_ended(target: Any) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(target).parameters.values())


def _binds(component: Any, call: Callable[..., Any]) -> bool:
    """Whether the component can be called as its protocol says."""
    parameters = list(inspect.signature(call).parameters.values())[1:]
    positional = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    try:
        inspect.signature(component).bind(*positional, **named)
    except TypeError:
        return False
    return True


def _options(group: str) -> str:
    from lth.paths import conf_dir

    return ", ".join(sorted(p.stem for p in (conf_dir() / group).glob("*.yaml")))


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)
