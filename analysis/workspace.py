"""``python -m analysis.workspace RUN... --entity NAME``: a W&B workspace with every panel in place.

Needs the extra ``workspace``. Panels show what is stored: W&B averages nothing but the seeds of a
run, and the intervals are ours (``across_seeds/...``, from the summary run).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.findings import figures
from analysis.frame import LocateError, locate
from lth.sink.ledger import Ledger
from lth.sink.wandb import Wandb
from lth.store.run_folder import RunFolder
from lth.store.stored import DamagedError

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

RESULTS = (
    "test_accuracy",
    "early_stop_step",
    "early_stop_val_accuracy",
    "final_val_accuracy",
    "diverged",
)
"""What is drawn against density, one panel each, a line for every variant."""

CURVES = ("val_loss", "val_accuracy", "batch_loss")
"""What is drawn against the steps of a training."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What there is to be drawn. ``runs``: the newest W&B run of every seed and the summary."""

    runs: tuple[str, ...]
    variants: tuple[str, ...]
    levels: tuple[int, ...]
    """Levels whose learning curves are drawn."""
    figures: tuple[str, ...]
    """Pictures of the report."""


def contents(folders: Sequence[RunFolder]) -> Contents:
    """Of stored runs; LocateError where W&B has been shown nothing of one."""
    runs: list[str] = []
    for folder in folders:
        newest = Ledger(folder).newest()
        if not newest:
            raise LocateError(
                f"RUN: W&B was shown nothing of {folder.run_id}, allowed: a run that was "
                f"mirrored (python -m analysis.sync {folder.path})"
            )
        runs += newest
    references = [r for folder in folders for r in folder.references()]
    controls = sorted({r.variant for r in references} - {"ticket"})
    levels = sorted({r.level for r in references if r.variant == "ticket"})
    chosen = sorted({levels[0], levels[len(levels) // 2], levels[-1]})
    return Contents(
        runs=tuple(runs),
        variants=("ticket", *controls),
        levels=tuple(chosen),
        figures=tuple(dict.fromkeys(name for f in folders for name in figures(f.report))),
    )


def workspace(shown: Contents, *, entity: str, project: str, name: str) -> ws.Workspace:
    """Sections, panels with their axes, and the grouping of runs."""
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_across(shown), _seeds(shown), *(_curves(shown, n) for n in shown.levels)],
        settings=ws.WorkspaceSettings(group_by_prefix="first", sort_panels_alphabetically=False),
        runset_settings=ws.RunsetSettings(
            # Older lives of a run repeat what the newest shows, and would weigh twice.
            filters=ws.And(ws.Metric("ID").isin(list(shown.runs))),
            groupby=[ws.Metric("Group"), ws.Metric("JobType")],
        ),
    )


def _across(shown: Contents) -> ws.Section:
    """Means over seeds with their intervals, as the analysis computes them."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    controls = [v for v in shown.variants if v != "ticket"]
    gaps = [f"ticket_minus_{c}" for c in controls]
    panels: list[Any] = [
        _against_density("Test accuracy, mean over seeds", _means(shown.variants)),
        *(_against_density(f"{v}: mean and 95 % interval", _interval(v)) for v in shown.variants),
        *(_against_density(f"{g}: mean and 95 % interval", _interval(g)) for g in gaps),
        wr.WeavePanelSummaryTable(table_name="tables/accuracy"),
    ]
    if shown.figures:
        panels.append(wr.MediaBrowser(media_keys=[f"report/{name}" for name in shown.figures]))
    return ws.Section(name="Across seeds", is_open=True, panels=panels)


def _seeds(shown: Contents) -> ws.Section:
    import wandb_workspaces.workspaces as ws

    panels: list[Any] = [
        _against_density(f"{key}: mean and range of the seeds", _results(shown.variants, key))
        for key in RESULTS
    ]
    return ws.Section(name="Results by density", is_open=True, panels=panels)


def _curves(shown: Contents, level: int) -> ws.Section:
    """A panel per variant: each training has steps of its own."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    paths = [f"train/{v}/level_{level:02d}" for v in shown.variants if level or v == "ticket"]
    panels: list[Any] = [
        wr.LinePlot(
            title=f"{path.split('/')[1]}: {key}",
            x=f"{path}/step",
            y=[f"{path}/{key}"],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for key in CURVES
        for path in paths
    ]
    return ws.Section(name=f"Learning curves, level {level}", panels=panels)


def _against_density(title: str, metrics: list[str]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    return wr.LinePlot(
        title=title,
        x="density",
        y=list(metrics),
        log_x=True,
        title_x="density (kept / all prunable weights)",
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def _means(names: Sequence[str]) -> list[str]:
    return [f"across_seeds/{name}/mean" for name in names]


def _interval(name: str) -> list[str]:
    return [f"across_seeds/{name}/{bound}" for bound in ("mean", "low", "high")]


def _results(variants: Sequence[str], key: str) -> list[str]:
    return [f"level/{variant}/{key}" for variant in variants]


def as_json(made: ws.Workspace) -> str:
    """What would be saved."""
    # The library has no public way to see it without a server.
    spec = made._to_model().model_dump_json(by_alias=True, exclude_none=True)
    return json.dumps(json.loads(spec), indent=1, sort_keys=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 done, 1 W&B failed or a stored file is damaged, 2 an argument is at fault."""
    parser = argparse.ArgumentParser(prog="python -m analysis.workspace", description=__doc__)
    parser.add_argument("run", nargs="+", metavar="RUN", help="folder, run_id prefix, or store")
    parser.add_argument("--entity", required=True, help="the user or team that the project is of")
    parser.add_argument("--project", help="default: WANDB_PROJECT, or lth")
    parser.add_argument("--name", default="Lottery tickets", help="of the saved view")
    parser.add_argument("--store", default="results", help="where run_id prefixes are looked up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it here; save nothing")
    given = parser.parse_args(arguments)
    try:
        shown = contents(locate(given.run, given.store))
        project = Wandb(project=given.project).options().project
        made = workspace(shown, entity=given.entity, project=project, name=given.name)
    except LocateError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"{error.name} is not installed: pip install 'lth[workspace]'", file=sys.stderr)
        return 2
    except DamagedError as damage:
        print(f"damaged: {damage}", file=sys.stderr)
        return 1
    if given.json is not None:
        given.json.write_text(as_json(made) + "\n")
        print(f"workspace in {given.json}")
        return 0
    try:
        made.save()
    except Exception as error:
        # No key, no network, no such project: whatever the library says of it.
        print(f"W&B: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(made.url)
    return 0


if __name__ == "__main__":
    sys.exit(main())
