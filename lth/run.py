"""``python -m lth.run``: compose, build, search, report."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lth.config import ConfigError, RunConfig
from lth.fault import explain
from lth.paths import conf_dir
from lth.sweep import CellSweeper, record, slug

DONE, FAILED, AT_FAULT, INTERRUPTED = 0, 1, 2, 130


def execute(config: DictConfig, experiment: str | None, *, report: bool) -> str:
    """Run one configuration to its end; gives its run_id.

    Raises ConfigError before anything is written.
    """
    # Imported here: --help and composition errors should not wait for torch.
    from lth.build import build
    from lth.conduct import conduct

    return conduct(build(config), experiment, report=report)


def task(config: DictConfig) -> int:
    """One Hydra job; its exit code."""
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN:
        execute(config, settings.runtime.choices.get("experiments"), report=config.report)
        return DONE
    overrides = list(settings.overrides.task)
    directory, cell = Path(settings.sweep.dir), slug(overrides)
    print(f"cell {' '.join(overrides)}", flush=True)
    code, run_id, reason = DONE, None, None
    try:
        run_id = execute(config, settings.runtime.choices.get("experiments"), report=False)
    except ConfigError as error:
        code, reason = AT_FAULT, "; ".join(error.faults)
    except Exception as error:
        # Whatever ends a cell must not end the sweep; the trace is for its author.
        traceback.print_exc()
        code, reason = FAILED, f"{type(error).__name__}: {error}"
    if reason is not None:
        print(f"failed: {reason}", file=sys.stderr, flush=True)
    status = "failed" if code else "done"
    record(directory, cell, overrides=overrides, run_id=run_id, status=status, reason=reason)
    return code


def register() -> None:
    """Tell Hydra of the typed root, the sweeper and the names of a sweep's folders."""
    store = ConfigStore.instance()
    store.store(name="schema", node=RunConfig)
    target = f"{CellSweeper.__module__}.{CellSweeper.__qualname__}"
    node = {"_target_": target, "max_batch_size": None, "params": None}
    store.store(group="hydra/sweeper", name="cells", node=node)
    Plugins.instance().register(CellSweeper)
    OmegaConf.register_new_resolver("lth.cell", slug, replace=True)


def main() -> int:
    """The command's exit code: 0 done, 1 failed, 2 configuration at fault, 130 interrupted."""
    register()
    # A user's own classes are found from where the command is given.
    sys.path.append(os.getcwd())
    # Hydra then raises what it would otherwise print and end with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    command = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="run")(task)
    began = time.monotonic()
    try:
        command()
    except ConfigError as error:
        return _complain(error.faults)
    except (HydraException, OmegaConfBaseException) as error:
        return _complain(explain(error, sys.argv[1:]))
    except KeyboardInterrupt:
        print(
            f"\ninterrupted after {time.monotonic() - began:.0f} s; what was finished is stored, "
            "and the same command goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    return DONE


def _complain(faults: list[str]) -> int:
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return AT_FAULT


if __name__ == "__main__":
    sys.exit(main())
