"""Listing and deleting: only what no other run refers to, never what is in use."""

from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from analysis import runs as command
from lth.store.files import FileStore
from lth.store.run_folder import RunFolder, runs
from lth.store.stored import seal, unseal


@pytest.fixture
def store(small_run: RunFolder, tmp_path: Path) -> Path:
    """A copy of the small run's store with a second run that shares its dense trainings."""
    root = tmp_path / "results"
    shutil.copytree(small_run.store_root, root, symlinks=True)
    other = root / "run" / "0123456789abcdef"
    shutil.copytree(small_run.path, other, symlinks=True)
    info = unseal((other / "run.json").read_bytes(), "")
    (other / "run.json").write_bytes(seal(info))
    for path in other.glob("seed_*/*/level_*"):
        if "level_00" not in path.name:
            path.unlink()
    return root


def ids(root: Path) -> set[str]:
    return set(FileStore(root).ids())


def test_a_store_is_listed(small_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(small_run.store_root), "--where", "seeds=3", "data=Digits"]) == 0
    out = capsys.readouterr().out
    assert f"{small_run.run_id}  -: LeNet300100 on Digits, 3 seeds, levels 0 to 2, 21" in out
    assert out.rstrip().endswith("1 run")
    assert command.main([str(small_run.store_root), "--where", "seeds=4"]) == 0
    assert capsys.readouterr().out == "0 runs\n"


def test_deleting_a_run_keeps_what_another_refers_to(store: Path, small_run: RunFolder) -> None:
    shared = {r.training for r in RunFolder(store, "0123456789abcdef").references()}
    assert len(shared) == 3 and len(ids(store)) == 21
    assert command.main([str(store), "--delete", small_run.run_id[:8], "--yes"]) == 0
    assert ids(store) == shared
    assert [f.run_id for f in runs(store)] == ["0123456789abcdef"]


def test_it_asks_first(store: Path, small_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no(text: str) -> str:
        asked.append(text)
        return ""

    monkeypatch.setattr("builtins.input", no)
    assert command.main([str(store), "--delete", small_run.run_id]) == 0
    assert len(ids(store)) == 21 and len(runs(store)) == 2
    assert asked and "1 runs and 18 trainings" in asked[0]


def test_nobody_there_to_answer_means_no(
    store: Path, small_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert command.main([str(store), "--delete", small_run.run_id]) == 0
    assert len(ids(store)) == 21 and len(runs(store)) == 2


def test_a_damaged_run_hides_no_other(
    store: Path, small_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "run" / small_run.run_id / "config.yaml").write_text("x: [")
    (store / "run" / "0123456789abcdef" / "run.json").write_text("{")
    whole = store / "run" / "fedcba9876543210"
    shutil.copytree(small_run.path, whole, symlinks=True)
    assert command.main([str(store)]) == 0
    out = capsys.readouterr().out
    assert f"{small_run.run_id}  damaged: " in out and "config.yaml: does not match" in out
    assert "0123456789abcdef  damaged: " in out
    assert out.rstrip().endswith("3 runs")


def test_a_store_that_cannot_be_changed_is_one_line(
    store: Path,
    small_run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(shutil, "rmtree", full)
    assert command.main([str(store), "--delete", small_run.run_id, "--yes"]) == 1
    assert capsys.readouterr().err.rstrip().endswith(": Read-only file system")


def test_orphans_go_and_what_is_in_use_stays(store: Path, small_run: RunFolder) -> None:
    shutil.rmtree(store / "run" / "0123456789abcdef")
    tickets = list((store / "run" / small_run.run_id).glob("seed_000/ticket/level_02*"))
    orphan = next(
        r for r in small_run.references() if (r.seed, r.variant, r.level) == (0, "ticket", 2)
    )
    for path in tickets:
        path.unlink()
    with FileStore(store).lock(orphan.training, wait=False):
        assert command.main([str(store), "--orphans", "--yes"]) == 1
        assert orphan.training in ids(store)
    assert command.main([str(store), "--orphans", "--yes"]) == 0
    assert len(ids(store)) == 20 and orphan.training not in ids(store)


def test_nothing_is_deleted_while_a_run_is_at_work(
    store: Path, small_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the level that it is at nothing has a reference yet."""
    for path in (store / "run" / small_run.run_id).glob("seed_*/*/level_02*"):
        path.unlink()
    with RunFolder(store, small_run.run_id).at_work():
        for what in (["--orphans"], ["--delete", "0123456789abcdef"]):
            assert command.main([str(store), *what, "--yes"]) == 1
            assert f"at work on run {small_run.run_id}" in capsys.readouterr().err
    assert len(ids(store)) == 21 and len(runs(store)) == 2
    assert command.main([str(store), "--orphans", "--yes"]) == 0
    assert len(ids(store)) == 12


def test_no_run_begins_while_something_is_deleted(
    store: Path, small_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove(*arguments: Any) -> list[str]:
        with RunFolder(store, small_run.run_id).alone() as alone:
            assert not alone
        return removed(*arguments)

    removed = command.remove
    monkeypatch.setattr(command, "remove", remove)
    assert command.main([str(store), "--delete", "0123456789abcdef", "--yes"]) == 0
    assert [f.run_id for f in runs(store)] == [small_run.run_id]


def test_what_is_referred_to_while_it_asks_stays(
    store: Path, small_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = store / "run" / "0123456789abcdef"
    hidden = store / "elsewhere"
    shared.rename(hidden)

    def yes(text: str) -> str:
        hidden.rename(shared)
        return "y"

    monkeypatch.setattr("builtins.input", yes)
    assert command.main([str(store), "--delete", small_run.run_id]) == 1
    assert ids(store) == {r.training for r in RunFolder(store, "0123456789abcdef").references()}


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["nowhere"], "STORE: got 'nowhere'"),
        (["STORE", "--where", "colour=red"], "--where: got 'colour=red', allowed: KEY=VALUE"),
        (["STORE", "--delete", "zzz", "--yes"], "RUN: got 'zzz'"),
    ],
)
def test_faults(arguments: list[str], fault: str, small_run: RunFolder, capsys: Any) -> None:
    own = [str(small_run.store_root) if a == "STORE" else a for a in arguments]
    assert command.main(own) == 2
    assert fault in capsys.readouterr().err
