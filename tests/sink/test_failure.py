"""Nothing that W&B does ends a run or holds it up: one warning, and training goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lth.sink import wandb as sink
from lth.sink.ledger import Ledger
from lth.sink.link import Link
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder

Run = Callable[..., RunFolder]
SMALL = ["seeds=[0]", "baseline=[random_reinit]", "levels=1"]
OFFLINE = [*SMALL, "sink.wandb.mode=offline"]
TRAININGS = 3
ROOT = Path(__file__).resolve().parents[2]


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("W&B: ")]


def fake_wandb(folder: Path, body: str) -> Path:
    """A package of that name whose runs do what ``body`` says when they are asked to log."""
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb" / "__init__.py").write_text(FAKE.replace("BODY", body))
    return folder


FAKE = """
import time

class Error(Exception): pass
class Settings:
    def __init__(self, **values): pass
class Run:
    offline, dir, url = False, "/nowhere/files", "https://wandb.example/run"
    def log(self, row): BODY
    def define_metric(self, name, step_metric=None): pass
    def finish(self, exit_code=None): pass
    summary = {}
def Table(**values): pass
def login(prompt=True): return True
def init(**values): return Run()
"""


def test_a_dead_server_costs_a_warning_and_leaves_an_offline_run(
    tmp_path: Path,
    lth_run: Run,
    logs: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    began = time.monotonic()
    folder = lth_run(tmp_path, *SMALL, "sink.wandb.mode=online")
    # 30 s at the end, and a run of three trainings of 20 updates on a shared machine.
    assert time.monotonic() - began < 45
    said = capsys.readouterr().out
    (warning,) = warnings(said)
    assert "127.0.0.1:9" in warning and "written offline instead; the run goes on" in warning
    assert "wandb sync" in said
    assert len(FileStore(tmp_path).ids()) == TRAININGS
    held = logs(tmp_path)["s0-0"]
    assert [v[0] for v in held.series("level", "level/ticket/test_accuracy")] == [0, 1]
    # The ledger does not say that the server has it.
    assert set(Ledger(folder).shown("offline:/lth")) == {"s0", "summary"}
    assert Ledger(folder).shown("online:/lth") == {}


def test_online_without_a_key_is_offline_and_says_so(
    tmp_path: Path,
    lth_run: Run,
    logs: Callable[[Path], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    lth_run(tmp_path / "store", *SMALL, "sink.wandb.mode=online")
    (warning,) = warnings(capsys.readouterr().out)
    assert "No API key configured" in warning and "written offline instead" in warning
    assert set(logs(tmp_path / "store")) == {"s0-0", "summary-0"}


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, lth_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb").write_text("not a folder")
    lth_run(tmp_path, *OFFLINE)
    (warning,) = warnings(capsys.readouterr().out)
    assert str(tmp_path / "wandb") in warning
    assert len(FileStore(tmp_path).ids()) == TRAININGS


def test_a_damaged_ledger(tmp_path: Path, lth_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = lth_run(tmp_path, *SMALL, "sink=[console]")
    (folder.path / "wandb.json").write_text("{}")
    lth_run(tmp_path, *OFFLINE)
    (warning,) = warnings(capsys.readouterr().out)
    assert "wandb.json: does not match its digest" in warning


def test_wandb_raising(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = fake_wandb(tmp_path / "fake", "raise RuntimeError('no space left on device')")
    monkeypatch.setattr("lth.sink.link._package", lambda: str(broken) + os.pathsep + str(ROOT))
    lth_run(tmp_path / "store", *OFFLINE)
    (warning,) = warnings(capsys.readouterr().out)
    assert warning == "W&B: RuntimeError: no space left on device; the run goes on"
    assert len(FileStore(tmp_path / "store").ids()) == TRAININGS


def test_wandb_hanging(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stuck = fake_wandb(tmp_path / "fake", "time.sleep(3600)")
    monkeypatch.setattr("lth.sink.link._package", lambda: str(stuck) + os.pathsep + str(ROOT))
    monkeypatch.setattr(sink, "CLOSE_SECONDS", 3.0)
    began = time.monotonic()
    lth_run(tmp_path / "store", *OFFLINE)
    assert 3 <= time.monotonic() - began < 20
    (warning,) = warnings(capsys.readouterr().out)
    assert warning == "W&B: not finished within 3 s; the run goes on"
    assert len(FileStore(tmp_path / "store").ids()) == TRAININGS


def test_a_life_online_ends_with_its_address(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = fake_wandb(tmp_path / "fake", "pass")
    monkeypatch.setattr("lth.sink.link._package", lambda: str(fine) + os.pathsep + str(ROOT))
    monkeypatch.setenv("WANDB_MODE", "")
    folder = lth_run(tmp_path / "store", *SMALL, "sink.wandb.artifacts=none")
    said = capsys.readouterr().out
    assert warnings(said) == []
    assert "W&B        https://wandb.example/run" in said and "wandb sync" not in said
    assert set(Ledger(folder).shown("online:/lth")) == {"s0", "summary"}


def test_wandb_is_not_installed(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sink, "find_spec", lambda name: None)
    lth_run(tmp_path, *OFFLINE)
    assert warnings(capsys.readouterr().out) == ["W&B: wandb is not installed; the run goes on"]
    assert len(FileStore(tmp_path).ids()) == TRAININGS


def test_disabled_it_starts_and_writes_nothing(
    tmp_path: Path,
    lth_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("lth.sink.life.Link", refuse)
    folder = lth_run(tmp_path, *SMALL, "sink.wandb.mode=disabled")
    assert "W&B" not in capsys.readouterr().out
    assert not (tmp_path / "wandb").exists() and not (folder.path / "wandb.json").exists()


def test_the_numbers_are_the_same_with_and_without(tmp_path: Path, lth_run: Run) -> None:
    for name, overrides in (("with", OFFLINE), ("without", [*SMALL, "sink=[console]"])):
        lth_run(tmp_path / name, *overrides)
    first, second = FileStore(tmp_path / "with"), FileStore(tmp_path / "without")
    assert first.ids() == second.ids()
    for i in first.ids():
        a, b = first.get(i), second.get(i)
        assert a is not None and b is not None
        assert a.done["digests"] == b.done["digests"]


def start(store: Path, *overrides: str) -> subprocess.Popen[str]:
    settings = ["dataset=synthetic", "batch_size=32", "device=cpu", f"store.root={store}"]
    return subprocess.Popen(
        [sys.executable, "-m", "lth.run", *settings, *overrides],
        cwd=store,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_cells_of_a_sweep_carry_its_name(
    tmp_path: Path, logs: Callable[[Path], dict[str, Any]]
) -> None:
    small = ["levels=1", "train_steps=20it", "eval_every=10it", "sink.wandb.mode=offline"]
    process = start(tmp_path, *small, "baseline=[random_reinit]", "seeds=[0],[1]", "-m")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    (name,) = (p.name for p in tmp_path.glob("sweep/*"))
    found = logs(tmp_path)
    # One run of two seeds, a cell and so a life for each.
    assert set(found) == {"s0-0", "s1-1", "summary-0", "summary-1"}
    for log in found.values():
        assert name[:64] in log.run["tags"] and log.config["lth"]["sweep"] == name


def test_a_file_that_is_gone_is_left_out_of_the_artifact(
    tmp_path: Path, mirrored: RunFolder
) -> None:
    link = Link(tmp_path)
    try:
        opening = {"mode": "offline", "finish_seconds": 5, "init": {"dir": str(tmp_path)}}
        link.send({"do": "open", "run": "a-run", **opening})
        here = str(mirrored.path / "run.json")
        files = {"here": here, "gone": str(tmp_path / "gone")}
        ticket = {"name": "a-ticket", "type": "ticket", "metadata": {}, "files": files}
        link.send({"do": "artifact", "run": "a-run", **ticket})
        link.send({"do": "finish", "code": 0})
        assert {"finished": "a-run"} in link.end()
        assert link.problems == []
    finally:
        link.kill()


def test_a_killed_run_leaves_what_was_stored(
    tmp_path: Path, logs: Callable[[Path], dict[str, Any]]
) -> None:
    long = ["train_steps=2000it", "eval_every=500it", "seeds=[0]", "baseline=[random_reinit]"]
    process = start(tmp_path, *long, "levels=50", "sink.wandb.mode=offline")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and not list(tmp_path.glob("run/*/seed_000/*/level_01")):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    log = logs(tmp_path)["s0-0"]
    while time.monotonic() < deadline and not log.of("exit"):
        time.sleep(0.5)
        log = logs(tmp_path)["s0-0"]
    assert log.of("exit")[0]["exit_code"] == 1
    assert [v[0] for v in log.series("level", "level/ticket/test_accuracy")][:2] == [0, 1]


def test_processes_that_share_a_run_have_a_life_each(
    tmp_path: Path, logs: Callable[[Path], dict[str, Any]]
) -> None:
    shared = ["train_steps=300it", "eval_every=100it", "seeds=[0,1]", "levels=2"]
    both = [start(tmp_path, *shared, "sink.wandb.mode=offline") for _ in range(2)]
    for process in both:
        said, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        assert warnings(said) == []
    found = logs(tmp_path)
    assert len([part for part in found if part.startswith("s0-")]) in (1, 2)
    lives = {part.rpartition("-")[2] for part in found}
    assert lives <= {"0", "1"}
    newest = found[max(part for part in found if part.startswith("s0-"))]
    assert {v[0] for v in newest.series("level", "level/ticket/test_accuracy")} == {0, 1, 2}
