"""The saved workspace, by its JSON: every panel draws what W&B was shown, against its own axis."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.workspace import as_json, contents, main, workspace
from lth.store.run_folder import RunFolder

Logs = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def spec(mirrored: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("workspace") / "workspace.json"
    assert main([str(mirrored.path), "--entity", "me", "--json", str(file)]) == 0
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def panels(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            if panel["viewType"] == "Run History Line Plot":
                yield section["name"], panel["config"]


def test_sections_panels_and_axes(spec: dict[str, Any]) -> None:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    assert [s["name"] for s in sections] == [
        "Across seeds",
        "Results by density",
        "Learning curves, level 0",
        "Learning curves, level 1",
        "Learning curves, level 2",
    ]
    accuracy = next(c for n, c in panels(spec) if n == "Results by density")
    assert accuracy["xAxis"] == "density"
    assert accuracy["xLogScale"] is True
    assert accuracy["metrics"] == [
        "level/ticket/test_accuracy",
        "level/random_reinit/test_accuracy",
        "level/shuffled_mask/test_accuracy",
    ]
    assert (spec["entity"], spec["project"]) == ("me", "lth")


def test_every_metric_of_a_panel_was_logged_and_has_that_axis(
    spec: dict[str, Any], mirrored: RunFolder, logs: Logs
) -> None:
    found = list(logs(mirrored.store_root).values())
    logged = {key for log in found for row in log.rows for key in row}
    axes = {name: axis for log in found for name, axis in log.axes.items()}
    checked = 0
    for _, config in panels(spec):
        for metric in config["metrics"]:
            assert metric in logged
            (axis,) = {a for glob, a in axes.items() if a and fnmatch.fnmatch(metric, glob)}
            assert config["xAxis"] == axis
            checked += 1
    assert checked > 30


def test_the_pictures_of_a_report_are_shown(mirrored: RunFolder) -> None:
    shown = contents([mirrored])
    assert shown.figures == ()
    made = workspace(replace(shown, figures=("accuracy",)), entity="me", project="lth", name="x")
    assert '"report/accuracy"' in as_json(made)


def test_runs_are_the_newest_grouped_by_run_and_kind(
    spec: dict[str, Any], mirrored: RunFolder
) -> None:
    (runs,) = spec["spec"]["section"]["runSets"]
    assert [g["name"] for g in runs["grouping"]] == ["group", "jobType"]
    (chosen,) = runs["filters"]["filters"]
    assert chosen["key"]["name"] == "name"
    assert chosen["value"] == [f"{mirrored.run_id}-{part}-0" for part in ("s0", "s1", "summary")]


def test_faults_are_one_line(
    tmp_path: Path,
    lth_run: Callable[..., RunFolder],
    mirrored: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lth_run(tmp_path, "seeds=[0]", "baseline=[random_reinit]", "levels=1", "sink=[console]")
    assert main([str(tmp_path), "--entity", "me"]) == 2
    assert "RUN: W&B was shown nothing of" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "wandb_workspaces.workspaces", None)
    assert main([str(mirrored.path), "--entity", "me"]) == 2
    assert "pip install 'lth[workspace]'" in capsys.readouterr().err
