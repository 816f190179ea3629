"""``python -m lth.run``: compose, build, search, report."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lth.cell import record, slug
from lth.config import GROUPS, ConfigError, RunConfig
from lth.fault import explain, misnamed
from lth.paths import conf_dir

DONE, FAILED, AT_FAULT, INTERRUPTED = 0, 1, 2, 130
PATIENCE = 10.0
"""Seconds in which the first process of ``torchrun`` can name a fault that all of them have."""


def execute(
    config: DictConfig, experiment: str | None, *, report: bool, sweep: str | None = None
) -> str:
    """Run one configuration to its end; gives its run_id.

    Raises ConfigError before anything is written.
    """
    # Imported here: --help and composition errors should not wait for torch.
    from lth.build import build
    from lth.conduct import conduct

    return conduct(build(config), experiment, report=report, sweep=sweep)


def task(config: DictConfig) -> int:
    """One Hydra job; in a sweep its exit code, else it ends the process with it."""
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    sweep = settings.mode == RunMode.MULTIRUN
    code, run_id, faults = DONE, None, list[str]()
    if sweep:
        print(f"cell {' '.join(overrides)}", flush=True)
    try:
        if faults := misnamed(overrides):
            raise ConfigError(faults)
        experiment = settings.runtime.choices.get("experiments")
        run_id = execute(
            config,
            experiment,
            report=config.report and not sweep,
            sweep=Path(settings.sweep.dir).name if sweep else None,
        )
    except Exception as error:
        # Whatever ends a cell must not end the sweep.
        code, faults = _fault(error, str(config.store.get("root", "")))
        if code == AT_FAULT and not sweep:
            _defer()
        _complain(faults)
    if not sweep:
        raise SystemExit(code)
    record(
        Path(settings.sweep.dir),
        slug(overrides),
        overrides=overrides,
        run_id=run_id,
        status="failed" if code else "done",
        reason="; ".join(faults) or None,
    )
    folder = Path(settings.runtime.output_dir)
    if not any(folder.iterdir()):
        # Hydra makes one for each job; only launchers with logs of their own fill it.
        folder.rmdir()
    return code


def _fault(error: Exception, store: str) -> tuple[int, list[str]]:
    """The exit code of an exception and what to say; a defect of ours shows its trace."""
    from lth.conduct import FailedError
    from lth.store.stored import DamagedError

    if isinstance(error, ConfigError):
        return AT_FAULT, error.faults
    if isinstance(error, DamagedError):
        return FAILED, [f"damaged: {error}"]
    if isinstance(error, OSError) and error.strerror:
        return FAILED, [
            f"{error.filename or store}: {error.strerror}; what was finished is stored, and the "
            "same command goes on from there"
        ]
    if not isinstance(error, FailedError | OSError):
        traceback.print_exception(error)
    return FAILED, [str(error) if str(error) else type(error).__name__]


def schema() -> DictConfig:
    """The typed root, with its groups open: ``dataset.subsample=0.5`` needs no ``+``.

    What such a key may be is checked against the component's signature by ``build``.
    """
    config: DictConfig = OmegaConf.structured(RunConfig)
    for name in GROUPS:
        config[name] = DictConfig({}, flags={"struct": False})
    return config


def register() -> None:
    """Tell Hydra of the typed root, the sweeper and the names of a sweep's folders."""
    store = ConfigStore.instance()
    store.store(name="schema", node=schema())
    plugins = Plugins.instance()
    # Only now: reading its plug-ins, Hydra makes their classes anew.
    from lth.sweep import CellSweeper

    # Hydra takes plug-ins only from the package hydra_plugins. A module of that name on disk
    # would be loaded by every Hydra program of the environment, so this one lives in memory.
    package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    sweeper = type("CellSweeper", (CellSweeper,), {"__module__": "hydra_plugins.lth"})
    vars(package)["lth"] = SimpleNamespace(CellSweeper=sweeper)
    node = {"_target_": "hydra_plugins.lth.CellSweeper", "max_batch_size": None, "params": None}
    store.store(group="hydra/sweeper", name="cells", node=node)
    plugins.register(sweeper)
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
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Jobs handle their own; a ValueError that arrives here is Hydra's, of the command line.
        _defer()
        _complain(explain(error, sys.argv[1:]))
        return AT_FAULT
    except KeyboardInterrupt:
        print(
            f"\ninterrupted after {time.monotonic() - began:.0f} s; what was finished is stored, "
            "and the same command goes on from there",
            file=sys.stderr,
        )
        return INTERRUPTED
    return DONE


def _defer() -> None:
    """Under ``torchrun``, leave it to the first process to name what is at fault, once.

    As that process ends, ``torchrun`` ends this one; if it does not, the fault is this one's own.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(PATIENCE)


def _complain(faults: list[str]) -> None:
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
