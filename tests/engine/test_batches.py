"""Which examples an update sees: a function of the streams and the absolute step alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lth.dataset.augment import augment
from lth.engine.batches import Batches
from lth.stream import generator
from lth.training import Training, streams

Make = Callable[..., Training]
CPU = torch.device("cpu")


@pytest.fixture
def indices(tiny_task: Callable[..., Any]) -> Callable[[Training, int], list[int]]:
    """The positions in the train split of a batch's examples, found by their pixels."""

    def find(training: Training, step: int) -> list[int]:
        x, _ = training.task.train.gather(torch.arange(len(training.task.train)))
        batch, _ = Batches(training, CPU)(step)
        return [int((x == image).flatten(1).all(1).nonzero()) for image in batch]

    return find


def test_an_epoch_is_floor_n_over_batch_updates_and_the_rest_is_dropped(
    make_training: Make, tiny_task: Any, indices: Any
) -> None:
    task = tiny_task(train=70)  # 54 of them for training, after 16 for validation
    training = make_training(task=task)
    assert (len(task.train), task.batch_size, task.updates_per_epoch) == (54, 16, 3)
    for epoch in (0, 1, 7):
        stream = generator(*training.streams["order"], "epoch", epoch)
        order = torch.randperm(54, generator=stream).tolist()
        seen = [indices(training, 3 * epoch + i) for i in range(3)]
        assert seen == [order[:16], order[16:32], order[32:48]]


def test_labels_belong_to_images(make_training: Make, indices: Any) -> None:
    training = make_training()
    _, y = Batches(training, CPU)(5)
    assert torch.equal(y, training.task.train.labels[indices(training, 5)])


def test_later_steps_need_no_replay(make_training: Make, tiny_task: Any) -> None:
    training = make_training(task=tiny_task(crop=1, flip=True))
    through = Batches(training, CPU)
    one_by_one = [through(step) for step in range(12)]
    for step in (11, 0, 7, 4):  # in any order, from a fresh start or not
        for batches in (through, Batches(training, CPU)):
            for a, b in zip(batches(step), one_by_one[step], strict=True):
                assert torch.equal(a, b)


def test_order_and_augmentation_have_streams_of_their_own(
    make_training: Make, tiny_task: Any, indices: Any
) -> None:
    training = make_training()
    first = indices(training, 0)
    assert indices(training, 4) != first  # the next epoch
    for other in (streams(1), streams(0, level=1), streams(0, order=5)):
        assert indices(training.replace(streams=other), 0) != first
    for same in (streams(0, augment=5), streams(0, module=5), streams(7, order=0)):
        assert indices(training.replace(streams=same), 0) == first

    def images(**own: int) -> Tensor:
        task = tiny_task(crop=2, flip=True)
        return Batches(make_training(task=task, streams=streams(0, **own)), CPU)(6)[0]

    assert torch.equal(images(), images(module=5))
    assert not torch.equal(images(), images(augment=5))


def test_augmentation_is_drawn_once_an_epoch(make_training: Make, tiny_task: Any) -> None:
    """By hand: the second batch of epoch 1 has the offsets of rows 16 to 32."""
    task = tiny_task(crop=2, flip=True)
    training = make_training(task=task)
    stream = generator(*training.streams["augment"], "epoch", 1)
    top = torch.randint(5, (64,), generator=stream)[16:32]
    left = torch.randint(5, (64,), generator=stream)[16:32]
    mirrored = (torch.randint(2, (64,), generator=stream) == 1)[16:32]
    plain, _ = Batches(make_training(), CPU)(5)
    expected = augment(plain, top=top, left=left, mirrored=mirrored, padding=2)
    assert torch.equal(Batches(training, CPU)(5)[0], expected)
    assert not torch.equal(expected, plain)
