"""The store's promises: atomic puts, damage named, locks freed, tickets loaded by anybody."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lth
from lth.store.blob_store import BlobStore
from lth.store.files import FileStore, locked, write_atomically
from lth.store.memory import MemoryStore
from lth.store.run_folder import Reference, RunFolder, find_trainings
from lth.store.stored import DamagedError
from lth.training import Training

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_put_comes_back(store: BlobStore, result: Any, observed: Any) -> None:
    stored = store.put(result, observed=observed)
    again = store.get(result.training.id)
    assert again is not None
    assert again.done == stored.done
    assert again.spec == result.training.spec
    assert again.kept() == {"7", "early_stop"}
    for name, kept in again.mask().items():
        assert torch.equal(kept, result.training.mask[name])
        assert torch.all(again.state("end").weights[name][~kept] == 0.0)
    assert torch.equal(
        again.state("end").weights["fc.weight"],
        result.end.weights["fc.weight"] * result.mask["fc.weight"],
    )
    slots = again.state(7).optimizer
    assert slots is not None and all(k.endswith("/momentum_buffer") for k in slots)
    with pytest.raises(KeyError, match="keeps no state 3"):
        again.state(3)


def test_nothing_is_written_before_the_first_training(tmp_path: Path, pruned: Training) -> None:
    store = FileStore(tmp_path / "results")
    assert store.get(pruned.id) is None
    assert store.ids() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_any_damaged_file_is_named(harm: str, tmp_path: Path, result: Any, observed: Any) -> None:
    store = FileStore(tmp_path)
    store.put(result, observed=observed)
    folder = store.folder(result.training.id).path
    names = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    assert len(names) >= 10
    for name in names:
        path, good = folder / name, (folder / name).read_bytes()
        if harm == "remove":
            path.unlink()
        elif harm == "truncate":
            path.write_bytes(good[: len(good) // 2])
        else:
            path.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        if (name, harm) == ("done.json", "remove"):
            assert store.get(result.training.id) is None
        else:
            with pytest.raises(DamagedError, match=re.escape(str(path))):
                store.get(result.training.id)
        path.write_bytes(good)
    assert store.get(result.training.id) is not None


class Crash(Exception):
    pass


def test_a_crash_while_putting_leaves_nothing_committed_or_all(
    tmp_path: Path, result: Any, observed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lth.store.files as files

    real, crashes = files.write_atomically, 0
    for at in range(20):
        store = FileStore(tmp_path / str(at))
        written = 0

        def write(path: Path, data: bytes, at: int = at) -> None:
            nonlocal written
            if written == at:
                raise Crash
            written += 1
            real(path, data)

        monkeypatch.setattr(files, "write_atomically", write)
        try:
            store.put(result, observed=observed)
        except Crash:
            crashes += 1
            assert store.get(result.training.id) is None
        monkeypatch.setattr(files, "write_atomically", real)
        store.put(result, observed=observed)
        assert store.get(result.training.id) is not None
    assert crashes >= 10


def _hold(root: Path, training_id: str, ready: Any) -> None:
    with FileStore(root).lock(training_id, wait=True):
        ready.set()
        signal.pause()


def test_a_lock_excludes_others_and_dies_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, "ab" * 32, ready), daemon=True)
    holder.start()
    assert ready.wait(60)
    store = FileStore(tmp_path)
    with store.lock("ab" * 32, wait=False) as held:
        assert held is False
    with store.lock("cd" * 32, wait=False) as held:
        assert held is True
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with store.lock("ab" * 32, wait=False) as held:
        assert held is True


def test_a_lock_whose_file_was_deleted_holds_nothing(tmp_path: Path) -> None:
    """Whoever waited for it while the folder was deleted takes it again, at its place."""
    path = tmp_path / "ab" / ".lock"
    held, ended = threading.Event(), threading.Event()

    def wait() -> None:
        with locked(path, wait=True):
            held.set()
            ended.wait(60)

    waiter = threading.Thread(target=wait, daemon=True)
    with locked(path, wait=True):
        waiter.start()
        time.sleep(0.2)
        shutil.rmtree(path.parent)
    assert held.wait(60)
    with locked(path, wait=False) as mine:
        assert mine is False
    ended.set()
    waiter.join()


def test_a_shared_lock_excludes_only_who_wants_it_alone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, wait=False, shared=True) as one, locked(path, wait=False, shared=True) as two:
        assert one and two
        with locked(path, wait=False) as alone:
            assert alone is False
    with locked(path, wait=False) as alone:
        assert alone is True


def test_a_run_that_begins_removes_strays_and_nothing_that_is_being_written(
    referred: tuple[FileStore, RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = referred
    killed = folder.path / ".run.json.1.tmp", folder.path / "seed_000" / "ticket" / ".level_03.tmp"
    killed[0].write_bytes(b"")
    killed[1].symlink_to("nowhere")
    real, begun = os.fsync, []

    def fsync(number: int) -> None:
        if not begun:
            begun.append(True)
            folder.begin({"model": {"name": "Tiny"}}, "data", {"command": []})
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.report.mkdir()
    # Another process of this run writes its report, under no lock of the run.
    write_atomically(folder.report / "report.html", b"page")
    assert begun and (folder.report / "report.html").read_bytes() == b"page"
    assert not list(folder.path.rglob(".*.tmp")) and not (folder.path / "nowhere").exists()


def test_no_file_is_a_pickle(tmp_path: Path, result: Any, observed: Any) -> None:
    FileStore(tmp_path).put(result, observed=observed)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 8
    for path in files:
        assert path.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")


@pytest.fixture
def referred(tmp_path: Path, result: Any, observed: Any) -> tuple[FileStore, RunFolder]:
    store, folder = FileStore(tmp_path), RunFolder(tmp_path, "0123456789abcdef")
    stored = store.put(result, observed=observed)
    folder.begin({"model": {"name": "Tiny"}}, "data", {"command": []})
    folder.refer(
        Reference(
            run_id=folder.run_id,
            seed=0,
            variant="ticket",
            draw=0,
            level=3,
            parent_level=2,
            density=stored.done["density"],
            search_steps=42,
            options=None,
            training=stored.id,
        )
    )
    return store, folder


def test_a_ticket_is_loaded_by_folder_link_or_reference(
    referred: tuple[FileStore, RunFolder], pruned: Training
) -> None:
    store, folder = referred
    reference = folder.file(0, "ticket", 3, 0)
    for path in (store.folder(pruned.id).path, reference.with_suffix(""), reference):
        ticket = lth.load_ticket(path)
        for name, kept in pruned.mask.items():
            assert torch.equal(ticket.mask[name], kept)
            assert torch.equal(ticket.start.weights[name], pruned.start.weights[name])
    with pytest.raises(FileNotFoundError, match="no stored Training"):
        lth.load_ticket(folder.path / "nothing")


def test_the_documented_loader_needs_nothing_of_ours(
    referred: tuple[FileStore, RunFolder], pruned: Training
) -> None:
    text = (ROOT / "docs" / "store.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert "lth." not in snippet and "torch" not in snippet
    body = snippet[snippet.index("def ") :]
    assert len(body.strip().splitlines()) <= 20
    names: dict[str, Any] = {}
    exec(snippet, names)
    _store, folder = referred
    mask, weights = names["load_ticket"](folder.file(0, "ticket", 3, 0).with_suffix(""))
    assert weights.keys() == pruned.start.weights.keys()
    for name, kept in pruned.mask.items():
        assert (mask[name] == kept.numpy()).all()
    for name, weight in pruned.start.weights.items():
        assert (weights[name] == weight.numpy()).all()


def test_trainings_are_found_by_reference_and_by_spec(
    referred: tuple[FileStore, RunFolder], pruned: Training
) -> None:
    store, _ = referred
    assert [s.id for s in find_trainings(store, level=3, variant="ticket")] == [pruned.id]
    assert [s.id for s in find_trainings(store.root, first_step=5, status="done")] == [pruned.id]
    assert find_trainings(store, level=2) == []
    assert find_trainings(store, first_step=6) == []
    with pytest.raises(ValueError, match="got levle, allowed: "):
        find_trainings(store, levle=3)


def test_a_reference_is_replaced_only_by_the_same_control(
    referred: tuple[FileStore, RunFolder],
) -> None:
    _, folder = referred
    (old,) = folder.references()
    assert folder.refer(old) is None
    values = dict(old.__dict__)
    other = Reference(**{**values, "training": "ab" * 32})
    assert folder.refer(other) == old
    with pytest.raises(ValueError, match="already has a control of that name"):
        folder.refer(Reference(**{**values, "options": {"name": "X"}}))


def test_a_run_is_not_continued_on_other_data(referred: tuple[FileStore, RunFolder]) -> None:
    _, folder = referred
    with pytest.raises(ValueError, match="was begun on data with digest data"):
        folder.begin({}, "other", {"command": []})


def test_both_stores_hold_the_same_bytes(tmp_path: Path, result: Any, observed: Any) -> None:
    disk, memory = FileStore(tmp_path), MemoryStore()
    for store in (disk, memory):
        store.put(result, observed=observed)
    training_id = result.training.id
    names = memory.folder(training_id).names()
    assert sorted(names) == sorted(disk.folder(training_id).names())
    for name in names:
        assert memory.folder(training_id).read(name) == disk.folder(training_id).read(name)
