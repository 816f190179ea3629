"""From checked components and the data to a search; faults that only the data show."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lth import layer
from lth import mask as masks
from lth.build import Run, parse_levels
from lth.complete import Watch
from lth.config import ConfigError, RunConfig
from lth.dataset.dataset import DataSet, Raw
from lth.dataset.task import Task
from lth.distillation import Teaching
from lth.event.evaluate import EARLY_STOP
from lth.fill import ZERO
from lth.granularity.weights import Weights
from lth.recall import Noted
from lth.search import Search
from lth.step import Step, resolve
from lth.store.run_folder import Reference, RunFolder, locate, read_reference
from lth.store.stored import DamagedError
from lth.stream import generator
from lth.training import LearningRate, build_model
from lth.transfer import fit, of_units
from lth.types import TrainState

DENSE = "dense"
"""The teacher that is the dense network of the same seed."""

SIMULATED = 5_000_000
"""Networks with more prunable weights have only their first level simulated (ranking is slow)."""


def read_data(run: Run) -> Raw:
    """The data set on the run's device; ConfigError where it is absent or malformed."""
    try:
        raw: Raw = run.dataset.read(Path(run.root.data_dir))
    except FileNotFoundError as error:
        raise ConfigError([f"data_dir: got {run.root.data_dir!r}: {error}"]) from None
    except (OSError, ValueError) as error:
        text = str(error)
        raise ConfigError([f"dataset.{text}" if ": got" in text else f"dataset: {text}"]) from None
    return raw.to(run.runtime.torch_device, streamed=run.dataset.streamed)


def prepare(run: Run, raw: Raw) -> Search:
    """The search that a configuration means, with every step counted in updates.

    Raises ConfigError with all faults found: a batch above the train split, a
    model that does not fit the images, steps outside the training, patterns
    that mean no layer, densities that cannot be reached.
    """
    root = run.root
    tasks = _tasks(run, raw)
    task = tasks[root.seeds[0]]
    per_epoch = task.updates_per_epoch
    faults = _fit(run, task)
    if faults:
        raise ConfigError(faults)
    total = Step.parse(root.train_steps).updates(per_epoch)
    rewind_step = Step.parse(root.rewind_step).updates(per_epoch)
    prune_at = root.prune_at
    if prune_at not in ("end", EARLY_STOP):
        at: str | int = Step.parse(prune_at).updates(per_epoch)
    else:
        at = prune_at
    keep = {Step.parse(k).updates(per_epoch) for k in root.keep if k != EARLY_STOP}
    search = Search(
        seeds=root.seeds,
        levels=root.levels,
        tasks=tasks,
        model=run.model,
        init=run.init,
        optimizer=run.optimizer,
        learning_rate=LearningRate(
            shape=resolve(run.lr, per_epoch),
            total=total,
            warmup=Step.parse(root.warmup).updates(per_epoch),
        ),
        criterion=run.criterion,
        allocation=run.allocation,
        schedule=run.schedule,
        rewind=run.rewind,
        finder=run.finder,
        distillation=_teaching(run, task),
        granularity=run.granularity or Weights(),
        noted=_noted(run),
        baselines=variants(run),
        eval_every=Step.parse(root.eval_every).updates(per_epoch),
        rewind_step=rewind_step,
        prune_at=at,
        score_steps=root.score_steps,
        exclude=root.exclude,
        order=root.order,
        streams={k: v for k, v in dataclasses.asdict(root.streams).items() if v is not None},
        label_smoothing=root.label_smoothing,
        grad_clip=root.grad_clip,
        precision=root.precision,
        fill=root.fill,
        watch=Watch(
            keep=frozenset(keep),
            keep_early_stop=EARLY_STOP in root.keep,
            test_curve=root.test_curve,
            probes=run.event,
        ),
    )
    _check_units(search)
    faults = _step_faults(run, search, keep) + _granularity_faults(run, search)
    if faults:
        raise ConfigError(faults)
    search = _with_imports(run, search)
    needing = [n for n, b in search.baselines.items() if getattr(b, "needs_scores", False)]
    if search.imports and run.root.ticket.mask and needing:
        raise ConfigError(
            [
                f"baseline: got {', '.join(needing)}, allowed: controls without scores (with "
                "ticket.source: this run did not find the mask)"
            ]
        )
    return _with_baseline_levels(run, search)


def _with_imports(run: Run, search: Search) -> Search:
    """The search with other runs' tickets, fitted to this network with each seed's own theta_0."""
    if not run.sources:
        return search
    layers = search.layers
    try:
        fitted = {
            seed: fit(source, layers=layers, theta=search.theta_0(seed))
            for seed, source in run.sources.items()
        }
        search = dataclasses.replace(search, imports=fitted)
        _check_units(search)  # the units of a layer that was re-drawn stay
        every = search.units(frozenset())
        return dataclasses.replace(
            search,
            imports={
                seed: of_units(own, every, search.grain, layers) for seed, own in fitted.items()
            },
        )
    except ValueError as error:
        raise ConfigError([f"ticket.{error}"]) from None


def _noted(run: Run) -> Noted:
    """What this run's folder refers to."""
    folder = RunFolder(run.store.root, run.run_id)

    def noted(seed: int, variant: str, level: int, draw: int) -> Reference | None:
        path = folder.file(seed, variant, level, draw)
        try:
            return read_reference(path) if path.exists() else None
        except DamagedError:
            return None  # it is written anew, and then said

    return noted


def _teaching(run: Run, task: Task) -> Teaching | None:
    """The teacher of ``distillation``; ConfigError for a path that has none for this model."""
    options = run.root.distillation
    if options.teacher is None:
        return None
    teacher = None
    if options.teacher != DENSE:
        try:
            teacher = locate(options.teacher).stored().state("end")
            _check_teacher(teacher, build_model(run.model, task, generator("fit")))
        except (OSError, KeyError, DamagedError, ValueError) as error:
            raise ConfigError(
                [
                    f"distillation.teacher: got {options.teacher!r}, allowed: null, {DENSE}, or a "
                    f"stored network such as RUN/seed_000/ticket/level_00 ({error})"
                ]
            ) from None
    return Teaching(temperature=options.temperature, weight=options.weight, teacher=teacher)


def _check_teacher(teacher: TrainState, module: nn.Module) -> None:
    known = {n: tuple(t.shape) for n, t in {**teacher.weights, **teacher.buffers}.items()}
    own = {n: tuple(t.shape) for n, t in [*module.named_parameters(), *module.named_buffers()]}
    odd = sorted(n for n in known.keys() | own.keys() if known.get(n) != own.get(n))
    if odd:
        raise ValueError(f"another architecture than the model's: {', '.join(odd[:3])}")


def variants(run: Run) -> dict[str, Any]:
    """The controls by variant name: the user's key, or the control's own name and options.

    ``random_reinit`` with ``origin=dense_k`` is ``random_reinit+dense_k``, so
    that two forms of one control do not collide. ConfigError where two do.
    """
    named: dict[str, Any] = {}
    for key, baseline in run.baseline.items():
        options = {
            k: v for k, v in run.specs["baseline"][key].items() if k not in ("name", "draws")
        }
        own = type(baseline).__module__.rpartition(".")[2] == key
        name = "+".join([key, *map(_short, options.values())]) if own else key
        if name in named:
            raise ConfigError([f"baseline.{key}: got a second {name}, allowed: different names"])
        named[name] = baseline
    return named


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(_short(v) for k, v in value.items() if k != "name")
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value))


def _tasks(run: Run, raw: Raw) -> dict[int, Task]:
    dataset: DataSet = run.dataset
    split = run.root.streams.split
    try:
        return {
            seed: dataset.task(raw, seed=seed, batch_size=run.root.batch_size, split=split)
            for seed in run.root.seeds
        }
    except ValueError as error:
        text = str(error)
        raise ConfigError([text if text.startswith("batch_size") else f"dataset.{text}"]) from None


def _fit(run: Run, task: Task) -> list[str]:
    """Whether the model takes the images and gives one score per class."""
    try:
        module = build_model(run.model, task, generator("fit"))
        layers = layer.kinds(module)
        run.init(module, generator=generator("fit"))
    except ValueError as error:
        text = str(error)
        if ": got" in text:  # an option of the model, which it names
            return [f"model.{text}"]
        return [f"model: got {run.specs['model']['name']}, allowed: another ({text})"]
    try:
        layer.select(layers, run.root.exclude)
    except ValueError as error:
        return [f"exclude: {error}"]
    x, labels = task.train.gather(torch.arange(2, device=run.runtime.torch_device))
    before = _shapes(module)
    try:
        with torch.random.fork_rng(devices=[]):
            with torch.no_grad():
                y = module.eval()(x.cpu())
            fault = _outputs_fault(y, task.num_classes)
            if fault is None:
                torch.autograd.backward(F.cross_entropy(module.train()(x.cpu()), labels.cpu()))
    except Exception as error:  # whatever a user's network raises
        first = str(error).partition("\n")[0] or type(error).__name__
        fault = (
            f", allowed: a network that takes images of shape {list(task.input_shape)} ({first})"
        )
    if fault is None and _shapes(module) != before:
        odd = sorted({n for n, _ in {*_shapes(module).items()} ^ {*before.items()}})
        fault = f" that makes {', '.join(odd)} in its first forward pass, allowed: all in __init__"
    if fault is None:
        parameters = dict(module.named_parameters())
        idle = [n for n in layers if parameters[n].grad is None]
        if idle:
            fault = (
                f" whose {', '.join(idle)} gets no gradient, allowed: Linear and Conv layers that "
                "take part in the loss and can be trained"
            )
    return [] if fault is None else [f"model: got {run.specs['model']['name']}{fault}"]


def _outputs_fault(y: Any, num_classes: int) -> str | None:
    shape = list(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
    if shape == [2, num_classes]:
        return None
    return (
        f" with outputs of shape {shape} for two images, allowed: [2, {num_classes}] (one score "
        "per class)"
    )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of all parameters and buffers."""
    return {n: tuple(t.shape) for n, t in [*module.named_parameters(), *module.named_buffers()]}


def _step_faults(run: Run, search: Search, keep: set[int]) -> list[str]:
    """Steps outside the training, and what components refuse of this search."""
    root, total = run.root, search.train_steps
    faults = []
    if not search.rewind_step < total:
        faults.append(
            f"rewind_step: got {root.rewind_step}, allowed: below {total}it (train_steps)"
        )
    if search.learning_rate.warmup > total:
        faults.append(f"warmup: got {root.warmup}, allowed: up to {total}it (train_steps)")
    faults += _refusals(search)
    against = root.verdict_against
    if search.baselines and against not in (*search.baselines, RunConfig().verdict_against):
        faults.append(
            f"verdict_against: got {against!r}, allowed: {', '.join(search.baselines)} (baseline)"
        )
    faults += [
        f"lr.milestones: got {milestone}, allowed: below {total}it (train_steps)"
        for milestone in getattr(search.learning_rate.shape, "milestones", ())
        if milestone.iterations >= total
    ]
    faults += [
        f"keep: got {step}it, allowed: up to {total}it (train_steps)"
        for step in keep
        if step > total
    ]
    return faults + _span_faults(run, search)


def _refusals(search: Search) -> list[str]:
    """What components with a ``check`` say of the search."""
    faults = []
    for component in (search.allocation, search.finder, *search.baselines.values()):
        check = getattr(component, "check", None)
        try:
            if check is not None:
                check(search)
        except ValueError as error:
            faults.append(str(error))
    return faults


def _span_faults(run: Run, search: Search) -> list[str]:
    """Rewinding to steps that are not there, and scoring at steps that no parent has."""
    root, faults = run.root, []
    rewinds = {"rewind": run.rewind}
    rewinds |= {f"baseline.{k}.rewind": getattr(b, "rewind", None) for k, b in run.baseline.items()}
    first, last = 0, search.train_steps
    chained = any(search.schedule(level).parent > 0 for level in range(1, search.levels + 1))
    for key, rewind in rewinds.items():
        if not hasattr(rewind, "span"):
            continue
        try:
            span = rewind.span(
                rewind_step=search.rewind_step,
                train_steps=search.train_steps,
                updates_per_epoch=search.tasks[root.seeds[0]].updates_per_epoch,
            )
            if key == "rewind" and chained:
                # Parents above level 0 have only these steps.
                first, last = span
        except ValueError as error:
            faults.append(f"{key}.{error}")
        if getattr(rewind, "optimizer", "fresh") == "saved" and search.rewind_step == 0:
            faults.append(f"{key}.optimizer: got 'saved', allowed: fresh (with rewind_step=0it)")
    if search.prune_at == first and hasattr(run.criterion, "watches"):
        faults.append(
            f"prune_at: got {root.prune_at}, allowed: after {first}it (the criterion watches the "
            "updates before it)"
        )
    if isinstance(search.prune_at, int) and not first <= search.prune_at <= last:
        faults.append(
            f"prune_at: got {root.prune_at}, allowed: {first}it to {last}it, end or early_stop"
        )
    return faults


def _check_units(search: Search) -> None:
    """Whether the network has such units; what they go with can only be asked where it has."""
    try:
        _ = search.grain
    except ValueError as error:
        text = str(error)
        key = "granularity." if ": got" in text else "granularity: "
        raise ConfigError([f"{key}{text}"]) from None


def _granularity_faults(run: Run, search: Search) -> list[str]:
    """What the units cannot be combined with."""
    grain, faults = search.grain, []
    finder = None if search.finder is None else run.specs["finder"]["name"]
    of_units = getattr(search.finder, "of_units", False)
    refusal = getattr(search.finder, "refusal", lambda grain: None)(grain) if of_units else None
    if refusal is not None:
        faults.append(f"finder: got {finder}, allowed: another ({refusal})")
    if isinstance(search.granularity, Weights):
        return faults
    name = type(search.granularity).__module__.rpartition(".")[2]
    if search.fill != ZERO:
        faults.append(f"fill: got {search.fill!r}, allowed: {ZERO} (granularity={name})")
    if grain.fixed and search.levels > 1:
        faults.append(
            f"levels: got {search.levels}, allowed: 0 or 1 (granularity={name}: the pattern alone "
            "fixes the density, so that further levels would prune nothing)"
        )
    if grain.fixed and search.score_steps > 1:
        faults.append(
            f"score_steps: got {search.score_steps}, allowed: 1 (granularity={name}: the pattern "
            "has no counts that could fall step by step)"
        )
    if not grain.fixed and getattr(run.allocation, "by_shape", False):
        faults.append(
            f"allocation: got {run.specs['allocation']['name']}, allowed: one that does not go by "
            f"the shape of a layer's weights (granularity={name})"
        )
    if finder is not None and not of_units:
        faults.append(
            f"finder: got {finder}, allowed: null (granularity={name}: it moves single weights)"
        )
    return faults


def ladder(search: Search, levels: int) -> list[float]:
    """The density of levels 0 to ``levels``, by pruning the initial weights, untrained.

    A ticket from another run has its own.
    """
    if search.imports:
        first = search.imports[search.seeds[0]].mask
        return [1.0, masks.density(first)][: levels + 1]
    start = search.theta_0(search.seeds[0])
    by_level = [masks.full(start.weights, search.layers)]
    for level in range(1, levels + 1):
        parent = by_level[search.schedule(level).parent]
        scores = {n: start.weights[n].abs() for n in search.layers if n in search.grain.scored}
        by_level.append(search.pruner.allocate(scores, parent, level))
    return [masks.density(m) for m in by_level]


def _with_baseline_levels(run: Run, search: Search) -> Search:
    """Turn densities into the levels nearest to them (on the log scale), and try the ladder."""
    wanted = parse_levels(run.root.baseline_levels)
    weights = search.theta_0(search.seeds[0]).weights
    big = sum(weights[n].numel() for n in search.layers)
    densities_needed = wanted != "all" and any(isinstance(v, float) for v in wanted)
    levels = search.levels if big <= SIMULATED or densities_needed else min(1, search.levels)
    try:
        densities = ladder(search, levels)
    except ValueError as error:
        group = "allocation" if str(error).startswith(("rates", "floor")) else "schedule"
        raise ConfigError([f"{group}.{error}"]) from None
    if wanted == "all":
        return search
    chosen = set()
    for value in wanted:
        if isinstance(value, int):
            if value > search.levels:
                raise ConfigError(
                    [f"baseline_levels: got {value}, allowed: 1 to {search.levels} (levels)"]
                )
            chosen.add(value)
        else:
            distance = [abs(math.log(d / float(value))) for d in densities]
            chosen.add(min(range(1, len(densities)), key=lambda i: distance[i]))
    return dataclasses.replace(search, baseline_levels=frozenset(chosen))
