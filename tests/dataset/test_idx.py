"""The idx reader: layouts, malformed files, absent data, downloads; MNIST itself where it is."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lth.dataset.dataset import Raw
from lth.dataset.fashion_mnist import FashionMNIST
from lth.dataset.idx import FILES, Idx, read_idx
from lth.dataset.kmnist import KMNIST
from lth.dataset.mnist import MNIST
from lth.spec import spec


def packed(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def contents(train: int = 12, test: int = 5) -> dict[str, bytes]:
    """Four files: image i is 2x3 pixels of value i, its label i modulo 10."""
    files = {}
    for part, n in (("train", train), ("t10k", test)):
        images = np.arange(n).repeat(6).reshape(n, 2, 3)
        files[f"{part}-images-idx3-ubyte"] = packed(images)
        files[f"{part}-labels-idx1-ubyte"] = packed(np.arange(n) % 10)
    return files


def write(place: Path, replaced: dict[str, bytes] | None = None, *, zipped: bool = False) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, content in {**contents(), **(replaced or {})}.items():
        if zipped:
            (place / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (place / name).write_bytes(content)


def check(raw: Raw) -> None:
    assert raw.x_train.shape == (12, 1, 2, 3) and raw.x_train.dtype == torch.uint8
    assert raw.x_train[7].flatten().tolist() == [7] * 6 and len(raw.x_test) == 5
    assert raw.y_train.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert raw.y_test.dtype == torch.int64 and raw.num_classes == 10 and raw.scale == 255.0


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", ["Mine/raw", "Mine", "."])
def test_every_layout_plain_and_gzipped(tmp_path: Path, place: str, zipped: bool) -> None:
    write(tmp_path / place, zipped=zipped)
    check(Idx(folder="Mine").read(tmp_path))


def test_files_may_be_packed_one_by_one(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    (tmp_path / f"{FILES[0]}.gz").unlink()
    (tmp_path / FILES[0]).write_bytes(contents()[FILES[0]])
    check(Idx().read(tmp_path))


@pytest.mark.parametrize(
    ("dataset", "folder"),
    [(MNIST(), "MNIST"), (FashionMNIST(), "FashionMNIST"), (KMNIST(), "KMNIST")],
)
def test_each_data_set_has_its_folder_and_checksums(
    tmp_path: Path, dataset: Idx, folder: str
) -> None:
    write(tmp_path / folder / "raw")
    check(dataset.read(tmp_path))
    assert set(dataset.MD5) == set(FILES) and dataset.mirrors and dataset.validation == 5000
    assert spec(dataset) == {"name": folder}


def truncated(content: bytes) -> bytes:
    return content[:-1]


def lengthened(content: bytes) -> bytes:
    return content + b"\0"


def of_floats(content: bytes) -> bytes:
    return content[:2] + b"\x0d" + content[3:]


def headless(content: bytes) -> bytes:
    return content[:5]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", [truncated, lengthened, of_floats, headless])
@pytest.mark.parametrize("name", FILES)
def test_a_malformed_file_is_named(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], zipped: bool
) -> None:
    write(tmp_path, {name: damage(contents()[name])}, zipped=zipped)
    with pytest.raises(ValueError, match=name) as caught:
        Idx().read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    write(tmp_path, zipped=True)
    path = tmp_path / f"{FILES[0]}.gz"
    whole = path.read_bytes()
    for damaged in (whole[:-9], b"PK" + whole[2:], whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=f"{FILES[0]}.gz: damaged gzip file"):
            Idx().read(tmp_path)


def test_counts_labels_and_sizes_must_agree(tmp_path: Path) -> None:
    write(tmp_path, {FILES[1]: packed(np.arange(11) % 10)})
    with pytest.raises(ValueError, match=f"{FILES[1]}: got 11 labels, allowed: .* 12 images"):
        Idx().read(tmp_path)
    write(tmp_path, {FILES[3]: packed(np.array([0, 1, 2, 3, 10]))})
    with pytest.raises(ValueError, match=f"{FILES[3]}: got label 10, allowed: 0 to 9"):
        Idx().read(tmp_path)
    assert Idx(classes=11).read(tmp_path).num_classes == 11
    write(tmp_path, {FILES[2]: packed(np.zeros((5, 3, 3)))})
    with pytest.raises(ValueError, match=rf"{FILES[2]}: got images of \[3, 3\] pixels"):
        Idx().read(tmp_path)


def test_read_idx_of_a_literal_file(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 255]))
    assert read_idx(path, dimensions=1).tolist() == [7, 0, 255]
    with pytest.raises(ValueError, match="labels: got idx header '00000801' .* '00000803'"):
        read_idx(path, dimensions=3)


def test_absent_data_names_directory_files_and_flags(tmp_path: Path) -> None:
    write(tmp_path / "MNIST" / "raw")
    for name in FILES[:2]:
        (tmp_path / "MNIST" / "raw" / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        MNIST().read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and FILES[2] not in message
    for part in (str(tmp_path / "MNIST" / "raw"), *FILES[:2], "data_dir=", "dataset.download=true"):
        assert part in message


class Web:
    """Stands in for the network: answers by URL, and remembers what was asked."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, request: urllib.request.Request, timeout: float) -> io.BytesIO:
        self.asked.append(request.full_url)
        if request.full_url not in self.answers:
            raise urllib.error.URLError("no route to host")
        return io.BytesIO(self.answers[request.full_url])


def published(mirror: str) -> dict[str, bytes]:
    return {f"{mirror}{name}.gz": gzip.compress(content) for name, content in contents().items()}


def test_a_download_tries_the_next_mirror_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Web(published("http://second/"))
    monkeypatch.setattr(urllib.request, "urlopen", web)
    dataset = Idx(folder="Mine", mirrors=("http://first/", "http://second/"), download=True)
    check(dataset.read(tmp_path))
    assert len(web.asked) == 8
    names = sorted(path.name for path in (tmp_path / "Mine" / "raw").iterdir())
    assert names == sorted(f"{name}.gz" for name in FILES)
    check(dataset.read(tmp_path))
    check(Idx(folder="Mine").read(tmp_path))
    assert len(web.asked) == 8


def test_a_download_fetches_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "MNIST" / "raw")
    (tmp_path / "MNIST" / "raw" / FILES[3]).unlink()
    web = Web(published("http://first/"))
    monkeypatch.setattr(urllib.request, "urlopen", web)
    check(Idx(mirrors=("http://first",), download=True).read(tmp_path))
    assert web.asked == [f"http://first/{FILES[3]}.gz"]


def test_a_failed_download_names_directory_url_and_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", Web({}))
    with pytest.raises(OSError, match="dataset.download=true") as caught:
        MNIST(download=True).read(tmp_path)
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path / "MNIST" / "raw") in message
    for mirror in MNIST().mirrors:
        assert f"{mirror}{FILES[0]}.gz" in message
    assert "no route to host" in message and "data_dir=" in message


def test_a_wrong_checksum_counts_as_failed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = "http://only/"
    answers = published(mirror)
    monkeypatch.setattr(urllib.request, "urlopen", Web(answers))
    with pytest.raises(OSError, match=f"MD5 is .*, published is {MNIST.MD5[FILES[0]]}"):
        MNIST(mirrors=(mirror,), download=True).read(tmp_path)
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []
    sums = {n: hashlib.md5(answers[f"{mirror}{n}.gz"]).hexdigest() for n in FILES}
    monkeypatch.setattr(MNIST, "MD5", sums)
    check(MNIST(mirrors=(mirror,), download=True).read(tmp_path))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"download: got True, allowed: False \(mirrors is empty"):
        Idx(download=True)
    with pytest.raises(ValueError, match="classes: got 1, allowed"):
        Idx(classes=1)


def test_mnist_itself() -> None:
    data_dir = os.environ.get("LTH_DATA_DIR")
    if data_dir is None:
        pytest.skip("LTH_DATA_DIR does not name a directory that holds MNIST")
    dataset = MNIST()
    raw = dataset.read(Path(data_dir))
    assert raw.x_train.shape == (60000, 1, 28, 28) and raw.x_test.shape == (10000, 1, 28, 28)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(raw.y_train).tolist() == train
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert torch.bincount(raw.y_test).tolist() == test
    assert raw.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    pixels = raw.x_train.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
    task = dataset.task(raw, seed=0, batch_size=60)
    assert (len(task.train), len(task.validation), len(task.test)) == (55000, 5000, 10000)
