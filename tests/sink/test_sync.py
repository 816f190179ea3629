"""analysis.sync shows of a stored run what the run itself would have shown, and nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.sync import main
from lth.store.run_folder import RunFolder

SMALL = ["seeds=[0,1]", "baseline=[random_reinit]", "levels=1"]
Run = Callable[..., RunFolder]
Logs = Callable[[Path], dict[str, Any]]


def sync(store: Path, *arguments: str) -> int:
    return main([str(store), "--mode", "offline", *arguments])


def test_it_shows_what_the_run_itself_would_have_shown(
    tmp_path: Path, lth_run: Run, logs: Logs
) -> None:
    live, later = tmp_path / "live", tmp_path / "later"
    lth_run(live, *SMALL, "sink.wandb.mode=offline", experiment="a_claim")
    lth_run(later, *SMALL, "sink=[console]", experiment="a_claim")
    assert logs(later) == {}
    assert sync(later) == 0
    first, second = logs(live), logs(later)
    assert sorted(first) == sorted(second) == ["s0-0", "s1-0", "summary-0"]
    for part, log in first.items():
        other = second[part]
        assert timeless(log.rows) == timeless(other.rows)
        assert len(log.rows) > 3
        assert log.axes == other.axes
        assert log.artifacts.keys() == other.artifacts.keys()
        for key in ("run_id", "run_group", "job_type", "display_name", "tags", "project"):
            assert log.run[key] == other.run[key], key
        assert other.config["lth"] == log.config["lth"]
        assert other.config["optimizer"] == log.config["optimizer"]


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without seconds, and without the tables' paths, which W&B makes up."""
    return [
        {k: v for k, v in row.items() if "seconds" not in k and not k.startswith("tables/")}
        for row in rows
    ]


def test_it_does_nothing_where_nothing_changed_and_else_only_what_did(
    tmp_path: Path, lth_run: Run, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["sink=[console]", "baseline=[random_reinit]", "levels=1"]
    lth_run(tmp_path, *quiet, "seeds=[0]")
    assert sync(tmp_path) == 0
    assert "2 new W&B runs" in capsys.readouterr().out
    before = sorted(logs(tmp_path))
    assert sync(tmp_path) == 0
    assert "no new W&B runs" in capsys.readouterr().out
    assert sorted(logs(tmp_path)) == before == ["s0-0", "summary-0"]
    lth_run(tmp_path, *quiet, "seeds=[1]")
    assert sync(tmp_path) == 0
    assert sorted(set(logs(tmp_path)) - set(before)) == ["s1-1", "summary-1"]
    # Another project holds nothing of it yet.
    assert sync(tmp_path, "--project", "other") == 0
    assert {log.run["project"] for part, log in logs(tmp_path).items() if part[-1] == "2"} == {
        "other"
    }
    assert len([part for part in logs(tmp_path) if part.endswith("-2")]) == 3


def test_it_goes_where_the_run_itself_went(tmp_path: Path, lth_run: Run, logs: Logs) -> None:
    own = ["sink.wandb.mode=disabled", "sink.wandb.project=own", "sink.wandb.artifacts=none"]
    lth_run(tmp_path, "seeds=[0]", "baseline=[random_reinit]", "levels=1", *own)
    assert sync(tmp_path) == 0
    log = logs(tmp_path)["s0-0"]
    assert log.run["project"] == "own"
    assert log.artifacts == {}


def test_a_figure_of_the_report_is_shown(tmp_path: Path, lth_run: Run, logs: Logs) -> None:
    from PIL import Image

    folder = lth_run(tmp_path, "seeds=[0]", "baseline=[random_reinit]", "sink=[console]")
    folder.report.mkdir()
    Image.new("RGB", (3, 2), "white").save(folder.report / "accuracy.png")
    assert sync(tmp_path) == 0
    log = logs(tmp_path)["summary-0"]
    (path,) = log.path.glob("files/media/images/report/accuracy_*.png")
    assert Image.open(path).size == (3, 2)


def test_faults_are_one_line(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["nothing", "--mode", "offline", "--store", str(tmp_path)]) == 2
    assert "RUN: got 'nothing', which no runs match" in capsys.readouterr().err
    lth_run(tmp_path, "seeds=[0]", "baseline=[random_reinit]", "levels=0", "sink=[console]")
    capsys.readouterr()
    assert main([str(tmp_path), "--timeout", "-1"]) == 2
    assert "--timeout: got -1, allowed: seconds, above 0" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert main([str(tmp_path)]) == 2
    assert "WANDB_MODE: got 'disabled', allowed: online, offline" in capsys.readouterr().err


def test_a_damaged_file_is_named(
    tmp_path: Path, lth_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    lth_run(tmp_path, "seeds=[0]", "baseline=[random_reinit]", "sink=[console]")
    (metrics, *_) = sorted(tmp_path.glob("training/*/*/metrics.parquet"))
    metrics.write_bytes(b"damaged")
    assert sync(tmp_path) == 1
    assert "metrics.parquet: does not match its SHA-256" in capsys.readouterr().err
