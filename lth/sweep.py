"""Sweeps (``-m``): one cell per combination; a faulty cell is a failed cell, the others go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from lth.cell import record, slug
from lth.fault import explain


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
        if self.config.report:
            # The only other place where the package looks at its analysis.
            from analysis.report_sweep import write_sweep

            print(f"report in  {write_sweep(directory)}")
        if failed:
            raise SystemExit(1)
        return None
