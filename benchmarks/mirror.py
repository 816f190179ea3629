"""``python -m benchmarks.mirror [--repeat N] [KEY=VALUE ...]``: what mirroring to W&B costs a run.

The default run, or the one of the overrides, without and with an offline mirror, in turn, each in
a new process and an empty store. The mirror's own processes are counted apart.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

SINKS = {"without": "sink=[console]", "with": "sink.wandb.mode=offline"}

INSIDE = """
import json, resource, sys
from lth.run import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
own, others = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
cpu = [usage.ru_utime + usage.ru_stime for usage in (own, others)]
print(json.dumps({"own": cpu[0], "others": cpu[1]}), file=sys.stderr)
"""


def measure(sink: str, overrides: Sequence[str]) -> dict[str, float]:
    """Seconds of one run: wall, CPU of the training's process and of its children."""
    with tempfile.TemporaryDirectory() as root:
        command = [sys.executable, "-c", INSIDE, sink, f"store.root={root}", *overrides]
        began = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall = time.perf_counter() - began
    return {"wall": wall, **json.loads(done.stderr.splitlines()[-1])}


def main() -> None:
    """Print one line per run, then the differences of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SINKS}
    for _ in range(given.repeat):
        for name, sink in SINKS.items():
            found[name].append(measure(sink, given.overrides))
            print(name, {k: round(v, 2) for k, v in found[name][-1].items()}, flush=True)
    difference = {k: _median(found["with"], k) - _median(found["without"], k) for k in _KEYS}
    facts: dict[str, Any] = {"machine": platform.platform(), "n": given.repeat}
    print(json.dumps({**facts, **{k: round(v, 2) for k, v in difference.items()}}))


_KEYS = ("wall", "own", "others")


def _median(runs: Sequence[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


if __name__ == "__main__":
    main()
