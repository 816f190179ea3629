"""CIFAR-10, CIFAR-100 and SVHN from tiny files in their own formats; absent and failed."""

from __future__ import annotations

import os
import pickle
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lth.dataset.cifar10 import CIFAR10
from lth.dataset.cifar100 import CIFAR100
from lth.dataset.dataset import Downloadable
from lth.dataset.svhn import SVHN
from lth.spec import spec
from lth.torchvision_import import torchvision

DATA_SETS = [CIFAR10(), CIFAR100(), SVHN()]
FETCHING = [CIFAR10(download=True), CIFAR100(download=True), SVHN(download=True)]
FILES = {
    "CIFAR10": ["cifar-10-batches-py", "data_batch_1", "data_batch_5", "test_batch"],
    "CIFAR100": ["cifar-100-python", "train", "test", "meta"],
    "SVHN": ["train_32x32.mat", "test_32x32.mat"],
}


def name_of(dataset: Downloadable) -> str:
    return type(dataset).__name__


@pytest.fixture
def any_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision takes our tiny files for the published ones."""

    def exists(path: str, md5: str | None = None) -> bool:
        return os.path.isfile(path)

    for module in (torchvision().datasets.cifar, torchvision().datasets.svhn):
        monkeypatch.setattr(module, "check_integrity", exists)


def rows(first: int, n: int) -> np.ndarray:
    """CIFAR's layout: n rows of 3,072 bytes, 1,024 each of red, green, blue, line by line.

    Image i has red = i, green = the line's number, blue = the column's.
    """
    line, column = np.indices((32, 32))
    images = [np.stack([np.full_like(line, i), line, column]) for i in range(first, first + n)]
    return np.stack(images).reshape(n, -1).astype(np.uint8)


def pickled(path: Path, entry: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(entry, protocol=2))


def check_pixels(x: torch.Tensor, first: int) -> None:
    assert x.dtype == torch.uint8 and x.shape[1:] == (3, 32, 32) and x.is_contiguous()
    assert x[:, 0, 9, 9].tolist() == list(range(first, first + len(x)))
    assert x[1, 1, 7, 3].item() == 7 and x[1, 2, 7, 3].item() == 3


@pytest.mark.usefixtures("any_checksum")
def test_cifar10_reads_its_six_batches(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    for i in range(5):
        pickled(
            folder / f"data_batch_{i + 1}",
            {"data": rows(2 * i, 2), "labels": [i, 9 - i]},
        )
    pickled(folder / "test_batch", {"data": rows(50, 3), "labels": [3, 1, 2]})
    pickled(folder / "batches.meta", {"label_names": [str(i) for i in range(10)]})
    raw = CIFAR10().read(tmp_path)
    check_pixels(raw.x_train, 0)
    check_pixels(raw.x_test, 50)
    assert raw.y_train.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert raw.y_test.tolist() == [3, 1, 2] and raw.y_test.dtype == torch.int64
    assert raw.num_classes == 10 and raw.scale == 255.0
    assert CIFAR10(download=True).read(tmp_path).digest == raw.digest  # nothing is fetched


@pytest.mark.usefixtures("any_checksum")
def test_cifar100_reads_the_fine_labels(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    entry = {"data": rows(0, 4), "fine_labels": [99, 0, 42, 7], "coarse_labels": [1, 2, 3, 4]}
    pickled(folder / "train", entry)
    pickled(folder / "test", {"data": rows(9, 2), "fine_labels": [5, 6], "coarse_labels": [0, 0]})
    pickled(folder / "meta", {"fine_label_names": [str(i) for i in range(100)]})
    raw = CIFAR100().read(tmp_path)
    check_pixels(raw.x_train, 0)
    check_pixels(raw.x_test, 9)
    assert raw.y_train.tolist() == [99, 0, 42, 7] and raw.num_classes == 100


@pytest.mark.usefixtures("any_checksum")
def test_svhn_calls_the_digit_0_by_label_0(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    for part, first, labels in (("train", 0, [1, 10, 5, 9]), ("test", 30, [10, 2])):
        x = rows(first, len(labels)).reshape(-1, 3, 32, 32).transpose(2, 3, 1, 0)
        y = np.array(labels, dtype=np.uint8)[:, None]
        scipy_io.savemat(tmp_path / f"{part}_32x32.mat", {"X": x, "y": y})
    raw = SVHN().read(tmp_path)
    check_pixels(raw.x_train, 0)
    check_pixels(raw.x_test, 30)
    assert raw.y_train.tolist() == [1, 0, 5, 9] and raw.y_test.tolist() == [0, 2]
    assert raw.num_classes == 10 and raw.y_train.dtype == torch.int64


@pytest.mark.parametrize("dataset", DATA_SETS, ids=name_of)
def test_absent_data_names_directory_files_and_flags(tmp_path: Path, dataset: Downloadable) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        dataset.read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(tmp_path), *FILES[name_of(dataset)], "data_dir=", "dataset.download=true"):
        assert part in message


@pytest.mark.parametrize("dataset", DATA_SETS, ids=name_of)
def test_a_damaged_file_is_not_called_absent(tmp_path: Path, dataset: Downloadable) -> None:
    source = getattr(torchvision().datasets, name_of(dataset))
    if name_of(dataset) == "SVHN":
        files = [tmp_path / name for _, name, _ in source.split_list.values()]
    else:
        folder = tmp_path / source.base_folder
        files = [folder / name for name, _ in source.train_list + source.test_list]
        files.append(folder / source.meta["filename"])
    for path in files:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not it")
    with pytest.raises(ValueError, match="is damaged") as caught:
        dataset.read(tmp_path)
    assert str(files[0].parent) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route to host"), RuntimeError("no route to host\nat all")],
    ids=["URLError", "RuntimeError"],
)
@pytest.mark.parametrize("dataset", FETCHING, ids=name_of)
def test_a_failed_download_names_directory_url_and_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Downloadable, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    datasets = torchvision().datasets
    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fail)
    monkeypatch.setattr(datasets.svhn, "download_url", fail)
    with pytest.raises(OSError, match="no route to host") as caught:
        dataset.read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    assert "http" in message and "dataset.download=true" in message and "data_dir=" in message


@pytest.mark.parametrize("dataset", FETCHING, ids=name_of)
def test_downloading_is_no_part_of_the_spec(dataset: Downloadable) -> None:
    assert spec(dataset) == {"name": name_of(dataset)} and dataset.validation == 5000
