"""Splits, labels, normalisation and spec that all data sets share; digits and synthetic."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lth.dataset.dataset import DataSet, Raw
from lth.dataset.digits import Digits
from lth.dataset.mnist import MNIST
from lth.dataset.synthetic import Synthetic
from lth.dataset.task import Resident, Split, Task
from lth.spec import canonical, spec

NOWHERE = Path("nowhere")


def numbered(n: int = 100, channels: int = 1) -> Raw:
    """Image i of train has the value i everywhere, and label i modulo 10; test counts from 200."""
    x = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).repeat(1, channels, 2, 2)
    test = torch.arange(200, 220, dtype=torch.uint8).view(20, 1, 1, 1).repeat(1, channels, 2, 2)
    return Raw(x, torch.arange(n) % 10, test, torch.arange(20) % 10, num_classes=10)


def everything(split: Split) -> tuple[Tensor, Tensor]:
    return split.gather(torch.arange(len(split)))


def members(split: Split) -> list[int]:
    """Which images of ``numbered`` a split without normalisation holds."""
    return [round(value * 255) for value in everything(split)[0][:, 0, 0, 0].tolist()]


def made(seed: int = 0, split: int | None = None, **options: object) -> Task:
    dataset = DataSet(**{"normalize": "unit", **options})  # type: ignore[arg-type]
    return dataset.task(numbered(), seed=seed, batch_size=10, split=split)


def test_a_split_repeats_for_a_seed_and_differs_between_seeds() -> None:
    first, again, other = made(seed=0), made(seed=0), made(seed=1)
    assert members(first.validation) == members(again.validation)
    assert members(first.train) == members(again.train)
    assert members(first.validation) != members(other.validation)


def test_another_seed_s_split_can_be_asked_for() -> None:
    assert members(made(seed=3, split=7).train) == members(made(seed=7).train)
    assert made(seed=3, split=7).spec == made(seed=7).spec


@pytest.mark.parametrize(("validation", "held"), [(0.1, 10), (0.25, 25), (7, 7), (1, 1)])
def test_train_and_validation_are_disjoint_and_complete(validation: float, held: int) -> None:
    task = made(validation=validation)
    train, validated = members(task.train), members(task.validation)
    assert len(validated) == held
    assert sorted(train + validated) == list(range(100))


def test_the_test_split_never_depends_on_the_seed() -> None:
    for seed in (0, 1):
        task = made(seed=seed, random_labels=1.0, subsample=0.5)
        assert members(task.test) == list(range(200, 220))
        assert everything(task.test)[1].tolist() == [i % 10 for i in range(20)]


def test_labels_stay_with_their_images() -> None:
    task = made(seed=5, subsample=0.5)
    for split in (task.train, task.validation):
        assert everything(split)[1].tolist() == [i % 10 for i in members(split)]


def test_random_labels_touch_the_stated_part_of_train_only() -> None:
    dataset = Synthetic(train=8000, classes=10, shape=(1, 1, 1), normalize="unit")
    raw = dataset.read(NOWHERE)
    noisy = Synthetic(
        train=8000, classes=10, shape=(1, 1, 1), normalize="unit", random_labels=0.5
    ).task(raw, seed=0, batch_size=10)
    clean = dataset.task(raw, seed=0, batch_size=10)
    x, y = everything(noisy.train)
    x_clean, y_clean = everything(clean.train)
    assert torch.equal(x, x_clean)
    changed = (y != y_clean).double().mean().item()
    assert abs(changed - 0.5 * 0.9) < 0.03  # a tenth of the drawn labels is the old one
    assert torch.bincount(y[y != y_clean], minlength=10).min() > 250
    for one, other in ((noisy.validation, clean.validation), (noisy.test, clean.test)):
        assert torch.equal(everything(one)[1], everything(other)[1])
    assert raw.digest == dataset.read(NOWHERE).digest


def test_random_labels_differ_between_seeds() -> None:
    first, again = made(seed=0, random_labels=1.0), made(seed=0, random_labels=1.0)
    other = made(seed=1, split=1, random_labels=1.0)
    assert torch.equal(everything(first.train)[1], everything(again.train)[1])
    assert not torch.equal(everything(first.train)[1], everything(other.train)[1])


@pytest.mark.parametrize(("subsample", "kept"), [(1.0, 90), (0.5, 45), (0.2, 18)])
def test_subsample_keeps_that_part_of_train_only(subsample: float, kept: int) -> None:
    full, part = made(seed=2), made(seed=2, subsample=subsample)
    assert len(part.train) == len(set(members(part.train))) == kept
    assert set(members(part.train)) <= set(members(full.train))
    assert members(part.validation) == members(full.validation)


def test_train_normalisation_gives_mean_0_and_deviation_1_on_the_train_split() -> None:
    x = torch.randint(256, (300, 3, 4, 4), dtype=torch.uint8)
    x[:, 1] //= 4
    x[:, 2] = x[:, 2] // 2 + 100
    raw = Raw(x, torch.arange(300) % 2, x[:10], torch.arange(10) % 2, num_classes=2)
    task = DataSet(normalize="train", subsample=0.5).task(raw, seed=0, batch_size=10)
    pixels = everything(task.train)[0].double()
    assert pixels.shape == (135, 3, 4, 4)
    assert pixels.mean((0, 2, 3)).abs().max() < 1e-5
    assert (pixels.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    held_out = everything(task.validation)[0].double()
    assert held_out.mean((0, 2, 3)).abs().max() > 1e-4  # its own mean plays no part


def test_normalisation_by_constants() -> None:
    raw = numbered(channels=3)
    task = DataSet(normalize="cifar10").task(raw, seed=0, batch_size=10)
    x = everything(task.test)[0]
    expected = [
        (200 / 255 - mean) / std
        for mean, std in ((0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616))
    ]
    assert torch.allclose(x[0, :, 0, 0], torch.tensor(expected), atol=1e-6)
    grey = DataSet(normalize="mnist").task(raw, seed=0, batch_size=10)
    assert everything(grey.test)[0][0, 2, 0, 0].item() == pytest.approx(
        (200 / 255 - 0.1307) / 0.3081, abs=1e-6
    )


def test_constants_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"normalize: got 'cifar10' \(3 channels\), allowed"):
        DataSet(normalize="cifar10").task(numbered(), seed=0, batch_size=10)


def test_a_constant_channel_is_normalised_to_zero() -> None:
    x = torch.full((20, 1, 2, 2), 7, dtype=torch.uint8)
    raw = Raw(x, torch.arange(20) % 2, x, torch.arange(20) % 2, num_classes=2)
    task = DataSet(normalize="train").task(raw, seed=0, batch_size=2)
    assert everything(task.train)[0].tolist() == torch.zeros(18, 1, 2, 2).tolist()


@pytest.mark.parametrize("batch_size", [0, 91])
def test_a_batch_that_train_cannot_fill_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size: got {batch_size}, allowed: 1 to 90"):
        DataSet().task(numbered(), seed=0, batch_size=batch_size)


@pytest.mark.parametrize("validation", [100, 101, 0.001])
def test_a_validation_part_that_leaves_nothing_is_refused(validation: float) -> None:
    with pytest.raises(ValueError, match=f"validation: got {validation}, allowed: 1 to 99 of 100"):
        made(validation=validation)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("validation", 0),
        ("validation", 1.5),
        ("subsample", 0.0),
        ("subsample", 1.1),
        ("random_labels", -0.1),
        ("normalize", "imagnet"),
        ("crop", -1),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{option}: got .*{value}.*, allowed: "):
        DataSet(**{option: value})  # type: ignore[arg-type]


def test_the_spec_leaves_out_what_changes_no_result() -> None:
    assert spec(MNIST(download=True)) == spec(MNIST()) == {"name": "MNIST"}
    assert spec(MNIST(mirrors=("http://localhost/",))) == {"name": "MNIST"}
    assert spec(MNIST(validation=0.1)) == {"name": "MNIST", "validation": 0.1}


def test_a_task_s_spec_names_its_contents_split_and_batch_size() -> None:
    raw = numbered()
    task = DataSet(crop=2).task(raw, seed=4, batch_size=8)
    assert canonical(task.spec) == canonical(
        {
            "dataset": {"name": "DataSet", "crop": 2},
            "data": raw.digest,
            "split": [4],
            "batch_size": 8,
        }
    )
    assert (task.crop, task.flip, task.batch_size, task.num_classes) == (2, False, 8, 10)
    assert task.input_shape == (1, 2, 2)
    assert task.updates_per_epoch == 11  # 90 examples: the last 2 are dropped


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_gather_follows_its_indices_and_leaves_the_stored_data_alone(dtype: torch.dtype) -> None:
    x = torch.arange(24).view(6, 1, 2, 2).to(dtype)
    stored = x.clone()
    one = torch.ones(1, 1, 1, 1)
    split = Resident(x, torch.tensor([3, 1, 4, 1]), torch.tensor([5, 0, 2, 1]), one, 2 * one)
    assert len(split) == 4
    images, labels = split.gather(torch.tensor([2, 0, 2]))
    assert images.dtype == torch.float32 and labels.tolist() == [4, 3, 4]
    assert torch.equal(images, (stored[[2, 5, 2]].float() - 1) / 2)
    images.zero_()
    assert torch.equal(x, stored)


def test_moving_keeps_the_digest_and_the_moments() -> None:
    raw = numbered()
    moved = raw.to(torch.device("cpu"))
    assert moved.digest == raw.digest == numbered().digest
    assert torch.equal(moved.moments[0], raw.moments[0])
    assert numbered(99).digest != raw.digest


def test_moments_are_sums_over_the_pixels_of_each_image() -> None:
    sums, squares = numbered().moments
    assert sums.shape == (100, 1) and sums[7].item() == 28
    assert squares[7].item() == 4 * 49


def test_digits() -> None:
    if find_spec("sklearn") is None:
        pytest.skip("scikit-learn, which ships the digits, is not installed")
    raw = Digits().read(NOWHERE)
    assert raw.x_train.shape == (1437, 1, 8, 8) and raw.x_test.shape == (360, 1, 8, 8)
    assert raw.x_train.dtype == torch.uint8 and int(raw.x_train.max()) == 16 == raw.scale
    assert torch.bincount(raw.y_test).tolist() == [36] * 10
    assert raw.y_train.dtype == torch.int64 and raw.num_classes == 10
    # The file's own counts of the classes, less the 36 of the test part.
    counts = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.bincount(raw.y_train).tolist() == [n - 36 for n in counts]
    assert Digits().read(NOWHERE).digest == raw.digest
    task = Digits().task(raw, seed=0, batch_size=32)
    assert (len(task.train), len(task.validation), len(task.test)) == (1077, 360, 360)


def test_synthetic_is_the_same_at_every_reading_and_follows_its_options() -> None:
    dataset = Synthetic(train=30, test=10, shape=(3, 4, 5), classes=6)
    raw = dataset.read(NOWHERE)
    assert raw.x_train.shape == (30, 3, 4, 5) and raw.x_test.shape == (10, 3, 4, 5)
    assert raw.x_train.dtype == torch.float32 and int(raw.y_train.max()) < 6
    assert dataset.read(NOWHERE).digest == raw.digest
    still = Synthetic(train=30, test=10, shape=(3, 4, 5), classes=6, noise=0.0).read(NOWHERE)
    for label in set(still.y_train.tolist()):
        images = still.x_train[still.y_train == label]
        assert torch.equal(images, images[:1].expand_as(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 8)}, "shape: got"),
        ({"train": 1}, "train, test: got 1"),
        ({"classes": 1}, "classes: got 1"),
    ],
)
def test_synthetic_refuses_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)  # type: ignore[arg-type]
