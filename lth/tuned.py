"""What an engine measures once, and a store remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lth.build import Run
from lth.engine.break_even import break_even, name
from lth.protocol import Engine
from lth.runtime import Runtime
from lth.search import Search
from lth.spec import canonical
from lth.store.files import locked, write_atomically
from lth.store.stored import DamagedError, seal, unseal
from lth.training import Training

FILE = "break_even.json"


def tuned_run(run: Run, search: Search) -> Run:
    """A run whose engine has its measurements, for whoever trains what the run needs."""
    dense = search.dense(search.seeds[0])
    engine = tuned(run.engine, dense, run.runtime, run.store.root)
    return replace(run, components={**run.components, "engine": engine})


def tuned(engine: Engine, training: Training, runtime: Runtime, root: Path) -> Engine:
    """An engine with its measurements, where it asks for any; those of ``root`` are repeated.

    They are one number per layer, batch size and numerics (device, threads,
    versions), so that a run that goes on computes the bits that it began with.
    A damaged file is measured anew.
    """
    tune = getattr(engine, "tuned", None)
    if tune is None:
        return engine
    own: Engine = tune(training, runtime, partial(recall, root / FILE, runtime))
    return own


def recall(
    path: Path, runtime: Runtime, layers: Sequence[tuple[int, int, int]]
) -> Mapping[str, float]:
    """The break-evens of layers (rows, columns, batch) by name; what is missing is measured."""
    machine = canonical(runtime.numerics())
    with locked(path.with_name(f".{path.name}.lock"), wait=True):
        try:
            known = unseal(path.read_bytes(), str(path)) if path.exists() else {}
        except DamagedError:
            known = {}
        own = known.setdefault(machine, {})
        missing = [layer for layer in layers if name(*layer) not in own]
        with runtime.active("fp32"):
            own |= {name(*layer): break_even(*layer) for layer in missing}
        if missing:
            write_atomically(path, seal(known))
    return {name(*layer): own[name(*layer)] for layer in layers}
