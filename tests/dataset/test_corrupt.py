"""Corrupted tasks: what is wrong with them, and that nothing else is."""

from __future__ import annotations

from typing import Any

import torch

from lth.dataset.corrupt import corrupt, orders


def test_labels_are_drawn_uniformly_and_images_stay(tiny_task: Any) -> None:
    task = tiny_task(train=4000, validation=1000)
    wrong = corrupt(task, labels=True, pixels=False, seed=5)
    everything = torch.arange(3000)
    (x, y), (same, true) = wrong.train.gather(everything), task.train.gather(everything)
    assert torch.equal(x, same)
    assert torch.equal(y, wrong.train.labels) and len(wrong.train) == 3000
    counts = torch.bincount(y, minlength=3)
    assert len(counts) == 3 and int((counts - 1000).abs().max()) < 130  # 5 sigma
    agree = int((y == true).sum())
    assert abs(agree - 1000) < 130


def test_each_image_keeps_its_pixels_in_an_order_of_its_own(tiny_task: Any) -> None:
    task = tiny_task(shape=(2, 6, 6))
    wrong = corrupt(task, labels=False, pixels=True, seed=5)
    everything = torch.arange(64)
    (x, y), (true, labels) = wrong.train.gather(everything), task.train.gather(everything)
    assert torch.equal(y, labels) and torch.equal(wrong.train.labels, labels)
    places = []
    for mine, own in zip(x.flatten(2), true.flatten(2), strict=True):
        # The two channels of a pixel stay together.
        where = (mine[:, :, None] == own[:, None, :]).all(0)
        assert where.sum(0).tolist() == where.sum(1).tolist() == [1] * 36
        places.append(tuple(where.int().argmax(1).tolist()))
    assert len(set(places)) == 64
    # Whatever the batch, an image looks the same.
    some = torch.tensor([40, 3])
    assert torch.equal(wrong.train.gather(some)[0], x[some])


def test_orders_are_uniform() -> None:
    drawn = orders(torch.arange(20000), 4, 1)
    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand(20000, 4))
    codes = drawn @ torch.tensor([64, 16, 4, 1])
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24  # all of 4!
    assert float(((counts - 20000 / 24) ** 2 / (20000 / 24)).sum()) < 60  # chi^2 with 23 degrees
    assert not torch.equal(orders(torch.arange(9), 36, 1), orders(torch.arange(9), 36, 2))


def test_only_train_is_corrupted_and_the_spec_says_how(tiny_task: Any) -> None:
    task = tiny_task()
    wrong = corrupt(task, labels=True, pixels=True, seed=5)
    assert wrong.validation is task.validation and wrong.test is task.test
    done = {"labels": True, "pixels": True, "seed": 5}
    assert wrong.spec == {**task.spec, "corrupted": done}
    assert "corrupted" not in task.spec
    assert wrong.updates_per_epoch == task.updates_per_epoch
    assert torch.equal(
        wrong.train.labels, corrupt(task, labels=True, pixels=False, seed=5).train.labels
    )
