"""Sweeps (``-m``): one cell per combination; a faulty cell is a failed cell, the others go on."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from lth.fault import explain
from lth.store.files import write_atomically

LENGTH = 80
"""Longest name of a sweep or a cell."""


def slug(overrides: Sequence[str]) -> str:
    """A readable file name for a list of overrides, with a digest where it had to be cut."""
    text = "_".join(sorted(overrides))
    name = re.sub(r"[^A-Za-z0-9=,.+-]+", "_", text).strip("_.") or "default"
    if len(name) <= LENGTH and name == text:
        return name
    return f"{name[: LENGTH - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def record(directory: Path, cell: str, **facts: Any) -> None:
    """Write a cell's record: overrides, run_id, status, reason."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts, indent=1, sort_keys=True)
    write_atomically(directory / f"{cell}.json", text.encode())


class CellSweeper(BasicSweeper):
    """Hydra's grid sweeper, except that a cell that does not compose fails alone.

    The sweep's folder is ``<store.root>/sweep/<name>``, the name made of the
    sweep's own overrides, so that the same command again means the same sweep.
    Ends with exit code 1 where any cell failed.
    """

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        parser = OverridesParser.create(config_loader=loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        directory = Path(self.config.hydra.sweep.dir) / slug([*self._parse_config(), *arguments])
        OmegaConf.set_readonly(self.config.hydra, False)
        self.config.hydra.sweep.dir = str(directory)
        where = f"hydra.sweep.dir='{directory}'"
        failed = total = 0
        for batch in self.split_arguments(overrides, self.max_batch_size):
            legal = []
            for cell in batch:
                total += 1
                try:
                    loader.load_sweep_config(self.config, [*cell, where])
                    legal.append([*cell, where])
                except Exception as error:
                    reason = "; ".join(explain(error, cell))
                    print(f"cell {' '.join(cell)}\nfailed: {reason}", file=sys.stderr)
                    name = slug(cell)
                    record(
                        directory, name, overrides=cell, run_id=None, status="failed", reason=reason
                    )
                    failed += 1
            for returned in self.launcher.launch(legal, initial_job_idx=total - len(batch)):
                crashed = returned.status != JobStatus.COMPLETED
                failed += crashed or returned.return_value != 0
        print(f"sweep: {total - failed} of {total} cells done; records in {directory}")
        if failed:
            raise SystemExit(1)
        return None
