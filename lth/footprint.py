"""What a network costs where it runs: latency of one example, memory of a process of its own."""

from __future__ import annotations

import importlib
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

Forward: TypeAlias = Callable[[Tensor], Tensor]


def latencies(
    forwards: Sequence[Forward], x: Tensor, *, runs: int = 200, seconds: float = 3.0
) -> list[float]:
    """The median seconds of one call of each, after a warm-up.

    They take turns, so that what else the machine does meets all of them; up to
    ``runs`` rounds, or about ``seconds``, and five at least.
    """
    for forward in forwards:
        for _ in range(3):
            forward(x)
    rounds: list[list[float]] = []
    began = time.perf_counter()
    while len(rounds) < runs and (len(rounds) < 5 or time.perf_counter() - began < seconds):
        rounds.append([_seconds(forward, x) for forward in forwards])
    return [statistics.median(own) for own in zip(*rounds, strict=True)]


def _seconds(forward: Forward, x: Tensor) -> float:
    began = time.perf_counter()
    forward(x)
    return time.perf_counter() - began


def memory(load: Callable[[], Forward], x: Tensor, *, imports: Sequence[str] = ()) -> int | None:
    """How many bytes a fresh process grows by while it loads a network and runs it once.

    ``load`` is called there, so it must pickle. Not counted: the interpreter, torch, and
    the modules that ``imports`` names. None where the system does not say (outside Linux).
    """
    if not _STATUS.exists():
        return None
    # Spawned: a forked process would start with this one's memory.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_grow, args=(there, load, x.numpy(), list(imports)))
    process.start()
    there.close()
    try:
        return int(here.recv())
    except EOFError:
        raise RuntimeError("the process that measures memory failed") from None
    finally:
        process.join()


_STATUS = Path("/proc/self/status")


def _grow(out: Connection, load: Callable[[], Forward], x: object, imports: Sequence[str]) -> None:
    torch.set_num_threads(1)
    example = torch.as_tensor(x)
    for name in imports:
        importlib.import_module(name)
    # Start the peak anew: imports may have passed what is needed now.
    Path("/proc/self/clear_refs").write_text("5")
    before = _bytes("VmRSS")
    load()(example)
    out.send(_bytes("VmHWM") - before)


def _bytes(field: str) -> int:
    """A field of this process's status: memory held (VmRSS), or at most so far (VmHWM)."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f"{_STATUS} has no {field}")
