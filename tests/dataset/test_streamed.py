"""A streamed split gives what a resident one gives, in any order, from memory or from a file."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from lth.build import build
from lth.dataset.dataset import Raw
from lth.dataset.streamed import DEPTH, Streamed
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import First, Resident, Task, in_chunks, reader
from lth.engine import perceptrons
from lth.engine.batches import Batches
from lth.engine.mlp import MLP
from lth.model.lenet_300_100 import LeNet300100
from lth.paths import conf_dir
from lth.prepare import prepare, read_data
from lth.run import register
from lth.runtime import Runtime

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {
    "train": 80,
    "test": 24,
    "validation": 16,
    "shape": (1, 6, 6),
    "classes": 3,
}


def tasks(**options: Any) -> tuple[Task, Task]:
    """A task with resident splits and the same one with streamed splits."""
    resident = Synthetic(**OPTIONS, **options)
    streamed = Synthetic(**OPTIONS, **options, streamed=True)
    raw = resident.read(Path())
    return tuple(  # type: ignore[return-value]
        d.task(raw.to(CPU, streamed=d.streamed), seed=0, batch_size=15)
        for d in (resident, streamed)
    )


def test_the_splits_are_of_their_kind_and_the_task_has_one_spec() -> None:
    resident, streamed = tasks()
    for name in ("train", "validation", "test"):
        assert type(getattr(resident, name)) is Resident
        assert type(getattr(streamed, name)) is Streamed
    assert resident.spec == streamed.spec


def test_gathers_what_a_resident_split_does() -> None:
    for a, b in zip(*((t.train, t.validation, t.test) for t in tasks()), strict=True):
        assert len(a) == len(b)
        assert torch.equal(a.labels, b.labels)
        some = torch.tensor([3, 0, 3, len(a) - 1])
        for x, y in zip(a.gather(some), b.gather(some), strict=True):
            assert torch.equal(x, y)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_memory_mapped_file_is_read_and_never_written(dtype: torch.dtype, tmp_path: Path) -> None:
    images = (torch.rand(30, 2, 3, 3) * 255).to(dtype)
    images.numpy().tofile(tmp_path / "images")
    mapped = np.memmap(
        tmp_path / "images", dtype=images.numpy().dtype, mode="c", shape=tuple(images.shape)
    )
    labels = torch.arange(30) % 3
    results = []
    for streamed, x in ((False, images), (True, torch.from_numpy(mapped))):
        dataset = Synthetic(validation=10, streamed=streamed)
        raw = Raw(x, labels, x[:5], labels[:5], num_classes=3)
        assert raw.to(CPU, streamed=True).x_train.data_ptr() == x.data_ptr()
        task = dataset.task(raw, seed=0, batch_size=4)
        results.append([*in_chunks(task.train, 6), *in_chunks(task.test, 2)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert (tmp_path / "images").read_bytes() == images.numpy().tobytes()


def test_batches_come_in_any_order_and_the_next_ones_are_there_before() -> None:
    _, task = tasks()
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))
    assert isinstance(task.train, Streamed)
    fetched: list[tuple[str, list[int]]] = []

    class Watched(Streamed):
        def fetch(self, rows: torch.Tensor) -> torch.Tensor:
            fetched.append((threading.current_thread().name, rows.tolist()))
            return super().fetch(rows)

    split = Watched(**vars(task.train))
    read = split.ahead(order, 10)
    for i in (0, 1, 1, 5, 6, 2):
        x, y = read(i)
        wanted = task.train.gather(order[10 * i : 10 * i + 10])
        assert torch.equal(x, wanted[0])
        assert torch.equal(y, wanted[1])
        # All that are to follow were asked for, in order, of one thread that is not this one.
        last = min(i + DEPTH, 6)
        read._thread.submit(lambda: None).result()
        assert {tuple(order[10 * j : 10 * j + 10].tolist()) for j in range(i, last + 1)} <= {
            tuple(rows) for _, rows in fetched
        }
    assert threading.current_thread().name not in {name for name, _ in fetched}


def test_the_thread_ends_with_its_reader() -> None:
    _, task = tasks()
    before = set(threading.enumerate())
    read = reader(task.train, torch.arange(40), 10)
    read(0)
    (own,) = set(threading.enumerate()) - before
    del read
    own.join(timeout=10)
    assert not own.is_alive()


def test_the_first_examples_of_a_streamed_split_are_streamed_too() -> None:
    a, b = (list(in_chunks(First(t.validation, 9), 4)) for t in tasks())
    assert [len(y) for _, y in b] == [4, 4, 1]
    assert all(
        torch.equal(x[0], y[0]) and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True)
    )


def test_a_share_of_every_batch(make_search: Any) -> None:
    for task in tasks(crop=1, flip=True):
        dense = make_search(tasks={0: task}).dense(0)
        whole = Batches(dense, CPU)
        parts = [Batches(dense, CPU, share) for share in (slice(0, 8), slice(8, 15))]
        for step in (0, 3, 4, 2):
            x, y = whole(step)
            pieces = [part(step) for part in parts]
            assert torch.equal(torch.cat([p[0] for p in pieces]), x)
            assert torch.equal(torch.cat([p[1] for p in pieces]), y)


def test_trainings_end_with_the_same_bits(
    make_search: Any, make_workshop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ({}, {"model": LeNet300100}):
        stored = []
        for task, cached in zip(tasks(crop=1), (perceptrons.CACHED, 0), strict=True):
            monkeypatch.setattr(perceptrons, "CACHED", cached)
            dense = make_search(tasks={0: task}, **options).dense(0)
            engine = {"engine": MLP()} if options else {}
            stored += make_workshop(**engine).complete([dense])
        a, b = stored
        assert a.id == b.id
        assert a.done["digests"] == b.done["digests"]
        assert repr(a.metrics()) == repr(b.metrics())


def test_images_that_are_on_a_device_already_are_refused() -> None:
    meta = torch.empty(20, 1, 2, 2, device="meta")
    raw = Raw(meta, torch.arange(20) % 2, meta, torch.arange(20) % 2, num_classes=2)
    raw.__dict__["moments"] = (torch.ones(20, 1), torch.ones(20, 1))
    with pytest.raises(ValueError, match="streamed: got true for images on meta, allowed: on the"):
        Synthetic(validation=4, streamed=True).task(raw, seed=0, batch_size=2)


def test_the_runtime_of_a_run_leaves_the_images_where_they_are() -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        overrides = ["dataset=synthetic", "batch_size=16", "dataset.streamed=true"]
        run = build(compose("run", overrides=overrides))
        plain = build(compose("run", overrides=overrides[:-1]))
    assert run.run_id == plain.run_id
    assert run.runtime.torch_device == Runtime().torch_device
    assert isinstance(prepare(run, read_data(run)).tasks[0].train, Streamed)
