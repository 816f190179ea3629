"""``python -m lth.export RUN/seed_000/ticket/level_07 --to state_dict|onnx|smaller --out PATH``.

Takes a ticket out of a store: a plain PyTorch state dict, an ONNX file, or a
program of the physically smaller network (tickets of whole units), with a JSON
beside it that says what it is. What was written is read back and held
against the ticket on the test data, and measured beside the dense network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from lth.build import Run, build
from lth.config import ConfigError, Transfer
from lth.dataset.task import Split, Task
from lth.deploy import FORMATS, Format, Network, WriteError
from lth.footprint import Forward, latencies, memory
from lth.granularity.residual_blocks import ResidualBlocks
from lth.granularity.units import Units
from lth.mask import density
from lth.prepare import read_data
from lth.smaller import smaller
from lth.spec import canonical, spec
from lth.store.files import write_atomically
from lth.store.run_folder import Place, Reference, RunFolder, locate, runs
from lth.store.stored import DamagedError, Stored
from lth.stream import generator
from lth.training import build_model
from lth.types import Mask, TrainState

STATES = ("start", "early_stop", "end")
CHUNK = 1000
"""Examples per forward pass of the check."""


class DifferentError(Exception):
    """What was written is not the ticket."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A stored network with all that it takes to run it again."""

    stored: Stored
    reference: Reference
    run: Run
    task: Task
    when: str
    state: TrainState
    mask: Mask

    def blank(self) -> Callable[[], nn.Module]:
        """Builds the module, untrained; it pickles."""
        task = self.task
        return partial(self.run.model, input_shape=task.input_shape, num_classes=task.num_classes)

    def module(self) -> nn.Module:
        """The network itself, in eval mode."""
        module = build_model(self.run.model, self.task, generator("export"))
        values = {**self.state.weights, **self.state.buffers}
        with torch.no_grad():
            for name, own in [*module.named_parameters(), *module.named_buffers()]:
                own.copy_(values[name])
        return module.eval()

    @property
    def of_units(self) -> bool:
        """Whether whole units were pruned and hold nothing, so that they can be left out."""
        units = isinstance(self.run.granularity, Units)
        return units and not self.filled and any(m.ndim < 2 for m in self.mask.values())

    @property
    def filled(self) -> bool:
        """Whether pruned weights hold values that are not 0."""
        return "fill" in self.stored.spec

    def smaller(self) -> nn.Module:
        """The network without the units that were pruned, in eval mode.

        ValueError where there is no such network.
        """
        shape = self.task.input_shape
        return smaller(self.module(), self.state, self.mask, input_shape=shape).eval()


def open_ticket(path: str, *, when: str = "end", data_dir: str | None = None) -> Opened:
    """Find a ticket, and rebuild its model and its data from what its run noted.

    ConfigError where it is not to be had (any more).
    """
    try:
        place = locate(path)
        stored = place.stored()
    except FileNotFoundError as error:
        raise ConfigError([f"TICKET: got {path!r}, allowed: a ticket of a run ({error})"]) from None
    reference = place.reference or _reference(place)
    if reference is None:
        raise ConfigError(
            [f"TICKET: got {path!r}, which no run refers to, allowed: a ticket of a run"]
        )
    if when == "end" and stored.status == "diverged":
        raise ConfigError([f"TICKET: got {path!r}, which diverged, allowed: --state start"])
    try:
        values = stored.state(when)
    except KeyError as error:
        raise ConfigError(
            [f"--state: got {when!r}, allowed: a state that is stored ({error.args[0]})"]
        ) from None
    folder = RunFolder(place.store.root, reference.run_id)
    info = folder.info()
    if info is None:
        raise DamagedError(str(folder.path / "run.json"), "missing")
    run = build(_plain(info["invocations"][-1]["config"], reference.seed, data_dir))
    split = run.root.streams.split
    task: Task = run.dataset.task(
        read_data(run), seed=reference.seed, batch_size=run.root.batch_size, split=split
    )
    for key, now in (("task", dict(task.spec)), ("model", spec(run.model))):
        if canonical(now) != canonical(stored.spec[key]):
            raise ConfigError(
                [f"TICKET: got {path!r}, whose {key} is {canonical(stored.spec[key])}, "
                 f"allowed: one of its run's {key}, which is {canonical(now)} now"]
            )  # fmt: skip
    return Opened(
        stored=stored,
        reference=reference,
        run=run,
        task=task,
        when=when,
        state=values,
        mask=stored.mask("start" if when == "start" else "end"),
    )


def _plain(config: Mapping[str, Any], seed: int, data_dir: str | None) -> dict[str, Any]:
    """The configuration of one seed on the CPU, with nothing that watches or mirrors."""
    plain = {**config, "seeds": [seed], "device": "cpu", "num_threads": 1, "workers": 1}
    plain |= {"precision": "fp32", "baseline": {}, "event": {}, "sink": {}}
    # What was brought in is in the Training; its source may be gone.
    plain["ticket"] = asdict(Transfer())
    return plain if data_dir is None else {**plain, "data_dir": data_dir}


def _reference(place: Place) -> Reference | None:
    for folder in runs(place.store.root):
        for reference in folder.references():
            if reference.training == place.training:
                return reference
    return None


@torch.no_grad()
def logits(forward: Forward, split: Split) -> Tensor:
    """The outputs for every example of a split."""
    n = len(split)
    parts = [torch.arange(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
    return torch.cat([forward(split.gather(part)[0]) for part in parts])


def export(opened: Opened, to: str, out: Path) -> list[str]:
    """Write ``out`` and ``out``.json; gives what to print.

    DifferentError where the file does not compute what the ticket does: nothing is left then.
    """
    form, module, test = FORMATS[to], opened.module(), opened.task.test
    small = _smaller(opened, to)
    examples = test.gather(torch.arange(2))[0]
    dense = build_model(opened.run.model, opened.task, generator("dense")).eval()
    full = {n: torch.ones_like(m) for n, m in opened.mask.items()}
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        file, other = Path(folder) / "ticket", Path(folder) / "dense"
        part = Network(module=small or module, mask=opened.mask, examples=examples)
        form.write(part, file)
        form.write(Network(module=dense, mask=full, examples=examples), other)
        own, written = logits(module, test), logits(form.load(file, opened.blank()), test)
        error, same = float((written - own).abs().max()), _same(written, own)
        allowed = form.tolerance * max(1.0, float(own.abs().max()))
        check = (
            f"same class for {same:,} of {len(test):,} test examples, "
            f"largest error of a logit {error:.2g} (allowed {allowed:.2g})"
        )
        if not error <= allowed:
            raise DifferentError(f"{out} would not be the ticket, and is not written: {check}")
        costs = _costs(form, (file, other), opened, examples)
        os.replace(file, out)
    note = out.with_name(f"{out.name}.json")
    facts = {"format": to, **describe(opened)}
    if small is not None:
        facts["shapes"] = {n: list(p.shape) for n, p in small.named_parameters()}
    write_atomically(note, (json.dumps(facts, indent=1) + "\n").encode())
    reference = opened.reference
    return [
        f"{out} ({to}) and {note}",
        f"  ticket     run {reference.run_id}, seed {reference.seed}, {reference.variant}, "
        f"level {reference.level}: {100 * facts['density']:.3g} % of its weights, {opened.when}",
        f"  check      {check}",
        *_as_trained(opened, own),
        *costs,
        f"  note       {_note(opened, module, small)}",
    ]


def _smaller(opened: Opened, to: str) -> nn.Module | None:
    """The network without its pruned units, where the format leaves them out."""
    form = FORMATS[to]
    if not form.only_units and not (form.cuts and opened.of_units):
        return None
    try:
        return opened.smaller()
    except ValueError as error:
        cut = "cuts" if opened.of_units else "only_units"
        others = ", ".join(n for n, f in FORMATS.items() if not getattr(f, cut))
        raise ConfigError([f"--to: got {to}, allowed: {others} ({error})"]) from None


def _note(opened: Opened, module: nn.Module, small: nn.Module | None) -> str:
    if small is not None:
        whole, left = (sum(p.numel() for p in m.parameters()) for m in (module, small))
        return f"pruned units are left out: {left:,} of {whole:,} parameters are in the file"
    if opened.of_units:
        return "pruned units are written as zeros; --to smaller or onnx leaves them out"
    if opened.filled:
        return "pruned weights hold what the run's fill gave them, which shrinks nothing"
    if isinstance(opened.run.granularity, ResidualBlocks):
        return "pruned blocks are written as zeros, which shrinks neither the file nor the latency"
    return (
        "pruned weights are written as zeros: unstructured sparsity shrinks neither the file nor "
        "the latency"
    )


def _costs(form: Format, files: Sequence[Path], opened: Opened, examples: Tensor) -> list[str]:
    """Size, latency and memory of the ticket's file and of the dense network's."""
    one = examples[:1].contiguous()
    loads = [partial(form.load, path, opened.blank()) for path in files]
    sizes = [path.stat().st_size for path in files]
    times = latencies([load() for load in loads], one)
    grown = [memory(load, one, imports=form.imports) for load in loads]
    return [
        _pair("file", map(_bytes, sizes)),
        _pair("latency", map(_time, times), "one example, median, CPU, 1 thread"),
        _pair("memory", map(_bytes, grown), "what a process grows by to load it and run it once"),
    ]


def _pair(name: str, values: Iterable[str], how: str = "") -> str:
    ticket, dense = values
    return f"  {name:<10} {ticket}; dense {dense}" + (f" ({how})" if how else "")


def _as_trained(opened: Opened, own: Tensor) -> list[str]:
    """How many classes are those stored when the network was trained (on its own engine)."""
    table = opened.stored.predictions()
    rows = (table["split"] == "test") & (table["when"] == opened.when)
    if not rows.any():
        return []
    then = torch.as_tensor(table["class"][rows].copy())
    same = int((own.argmax(1) == then).sum())
    return [f"  training   same class as was stored then for {same:,} of {len(then):,}"]


def _same(a: Tensor, b: Tensor) -> int:
    return int((a.argmax(1) == b.argmax(1)).sum())


def _bytes(count: int | None) -> str:
    if count is None:
        return "not measured on this system"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def describe(opened: Opened) -> dict[str, Any]:
    """What the file beside an export says: how to build the network, and what it is.

    ``model`` is a ``_target_`` with its options, called with ``input_shape`` and
    ``num_classes`` too. The network takes (x - mean) / std of the stored pixels.
    """
    reference, stored, test = opened.reference, opened.stored, opened.task.test
    return {
        "model": opened.run.config["model"],
        "input_shape": list(opened.task.input_shape),
        "num_classes": opened.task.num_classes,
        "normalize": {
            name: getattr(test, name).flatten().tolist()
            for name in ("mean", "std")
            if hasattr(test, name)
        },
        "dataset": opened.run.config["dataset"],
        "density": density(opened.mask),
        "state": opened.when,
        "step": opened.state.step,
        "run_id": reference.run_id,
        "seed": reference.seed,
        "variant": reference.variant,
        "level": reference.level,
        "draw": reference.draw,
        "training": stored.id,
    }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 the file is not the ticket or the store is damaged, 2 an argument is at fault."""
    parser = _Parser(prog="python -m lth.export", description=__doc__)
    parser.add_argument("ticket", metavar="TICKET", help="RUN/seed_000/ticket/level_07")
    parser.add_argument("--to", choices=sorted(FORMATS), required=True)
    parser.add_argument("--out", required=True, metavar="PATH", help="the file to write")
    parser.add_argument("--state", choices=STATES, default="end", help="default: end")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data are now")
    options = parser.parse_args(arguments)
    # A user's own classes are found from where the command is given.
    sys.path.append(os.getcwd())
    torch.set_num_threads(1)
    out = Path(options.out)
    try:
        _ready(options.to, out)
        opened = open_ticket(options.ticket, when=options.state, data_dir=options.data_dir)
        print("\n".join(export(opened, options.to, out)))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}", file=sys.stderr)
        return 1
    except (DifferentError, WriteError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _ready(to: str, out: Path) -> None:
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError([f"--out: got {str(out)!r}, allowed: a file in a folder that exists"])
    suffix = FORMATS[to].suffix
    if not out.name.endswith(suffix):
        raise ConfigError([f"--out: got {str(out)!r}, allowed: a name that ends in {suffix}"])
    missing = _missing(FORMATS[to])
    if missing:
        here = ", ".join(name for name, form in FORMATS.items() if not _missing(form))
        lacks = ", ".join(missing)
        raise ConfigError(
            [f"--to: got {to}, which needs {lacks} (pip install 'lth[deploy]'), allowed: {here}"]
        )


def _missing(form: Format) -> list[str]:
    return [name for name in form.needs if find_spec(name) is None]


if __name__ == "__main__":
    sys.exit(main())
