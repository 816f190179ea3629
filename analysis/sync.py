"""``python -m analysis.sync RUN...``: mirror stored runs to W&B; nothing twice."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from analysis.findings import findings
from analysis.frame import LocateError, trained
from lth.sink.life import Life, Options
from lth.sink.link import LinkError
from lth.sink.wandb import FILES, MODES, Wandb, where
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError


def sync(folder: RunFolder, options: Options) -> tuple[list[str], list[str]]:
    """Mirror a run; gives what to say of it, and what went wrong.

    LinkError where W&B cannot be spoken to at all.
    """
    life = Life(folder, options, facts(folder))
    try:
        life.begin(eager=False)
        life.summarize(findings(folder))
        life.end(code=0)
    finally:
        life.link.kill()
    lines = [f"run {folder.run_id}: {len(life.opened) or 'no'} new W&B runs"]
    return [*lines, *where(life, folder.store_root)], life.link.problems


def facts(folder: RunFolder) -> dict[str, Any]:
    """What a run that is under way says of itself, from its folder."""
    info = folder.info()
    invocations = info["invocations"] if info else []
    last = invocations[-1] if invocations else {}
    return {
        "config": last.get("config") or folder.config(),
        "seeds": sorted({reference.seed for reference in folder.references()}),
        "experiment": last.get("experiment"),
        "sweep": last.get("sweep"),
    }


def chosen(folder: RunFolder, given: argparse.Namespace) -> Options:
    """The command line's words, else those that the run itself was last given."""
    own = (facts(folder)["config"].get("sink") or {}).get("wandb") or {}
    words = {k: getattr(given, k) or own.get(k) for k in ("project", "entity", "artifacts")}
    sink = Wandb(mode=given.mode, **{k: v for k, v in words.items() if v is not None})
    options = sink.options(given.timeout)
    if options.mode == "disabled":
        raise LocateError("WANDB_MODE: got 'disabled', allowed: online, offline (or --mode)")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 W&B failed or a stored file is damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.sync", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    parser.add_argument("--mode", default="auto", choices=[m for m in MODES if m != "disabled"])
    parser.add_argument("--project", help="default: the run's own, WANDB_PROJECT, or lth")
    parser.add_argument("--entity", help="default: the run's own, WANDB_ENTITY, or the key's")
    parser.add_argument("--artifacts", choices=FILES, help="default: the run's own, or all")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for uploads")
    given = parser.parse_args(arguments)
    failed = False
    try:
        if not given.timeout > 0:
            raise LocateError(f"--timeout: got {given.timeout:g}, allowed: seconds, above 0")
        for folder in trained(given.run, given.store):
            lines, problems = sync(folder, chosen(folder, given))
            print(*lines, sep="\n")
            print(*problems[:1], sep="\n", end="\n" if problems else "", file=sys.stderr)
            failed = failed or bool(problems)
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except LinkError as error:
        print(f"W&B: {error}", file=sys.stderr)
        return 1
    except DamagedError as damage:
        print(f"damaged: {damage}; run the same lth.run command to recompute", file=sys.stderr)
        return 1
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
