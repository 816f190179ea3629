"""Class folders: layouts, decoding, the cache, and one-line errors that name the path."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lth.dataset import image_folder
from lth.dataset.image_folder import ImageFolder, decode, progress
from lth.spec import spec


def paint(path: Path, value: int, *, width: int = 4, height: int = 4) -> Path:
    """An image of red = value, green = the line's number, blue = the column's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line, column = np.indices((height, width))
    pixels = np.stack([np.full_like(line, value), line, column], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def two_parts(root: Path) -> Path:
    """Train has 3 cats and 2 dogs, test 1 and 2; red numbers the images."""
    for i, name in enumerate(["cat/a", "cat/b", "cat/c", "dog/a", "dog/b"]):
        paint(root / "train" / f"{name}.png", i)
    for i, name in enumerate(["cat/z", "dog/y", "dog/z"]):
        paint(root / "test" / f"{name}.png", 100 + i)
    return root


def one_part(root: Path, counts: tuple[int, ...] = (10, 5, 2)) -> Path:
    for label, count in enumerate(counts):
        for i in range(count):
            paint(root / f"class_{label}" / f"{i:03}.png", 50 * label + i)
    return root


def cached(root: Path) -> list[Path]:
    return sorted((root / ".lth-cache").iterdir())


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every path that is decoded, except the first one's extra time for its size."""
    seen: list[Path] = []

    def spy(path: Path, *, size: int | None, channels: int) -> np.ndarray:
        seen.append(path)
        return decode(path, size=size, channels=channels)

    monkeypatch.setattr(image_folder, "decode", spy)
    return seen


def test_train_and_test_folders(tmp_path: Path) -> None:
    raw = ImageFolder().read(two_parts(tmp_path))
    assert raw.x_train.shape == (5, 3, 4, 4) and raw.x_train.dtype == torch.uint8
    assert raw.x_train[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert raw.x_test[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert raw.x_train[0, 1, :, 0].tolist() == raw.x_train[0, 2, 0].tolist() == [0, 1, 2, 3]
    assert raw.y_train.tolist() == [0, 0, 0, 1, 1] and raw.y_test.tolist() == [0, 1, 1]
    assert raw.y_train.dtype == torch.int64 and raw.num_classes == 2 and raw.scale == 255.0


def test_test_may_lack_a_class_and_labels_follow_train(tmp_path: Path) -> None:
    two_parts(tmp_path)
    (tmp_path / "test" / "cat" / "z.png").unlink()
    (tmp_path / "test" / "cat").rmdir()
    assert ImageFolder().read(tmp_path).y_test.tolist() == [1, 1]


def test_a_fixed_part_of_each_class_is_split_off(tmp_path: Path) -> None:
    raw = ImageFolder().read(one_part(tmp_path))
    assert torch.bincount(raw.y_train).tolist() == [8, 4, 1]
    assert torch.bincount(raw.y_test).tolist() == [2, 1, 1]
    shown = torch.cat([raw.x_train, raw.x_test])[:, 0, 0, 0]
    assert sorted(shown.tolist()) == [*range(10), *range(50, 55), 100, 101]
    for x, y in ((raw.x_train, raw.y_train), (raw.x_test, raw.y_test)):
        assert (x[:, 0, 0, 0] // 50).tolist() == y.tolist()
    assert ImageFolder().read(tmp_path).digest == raw.digest
    tasks = [ImageFolder().task(raw, seed=seed, batch_size=2) for seed in (0, 1)]
    everywhere = torch.arange(4)
    assert torch.equal(tasks[0].test.gather(everywhere)[1], tasks[1].test.gather(everywhere)[1])


def test_the_fraction_of_the_test_part_can_be_set(tmp_path: Path, decoded: list[Path]) -> None:
    one_part(tmp_path)
    ImageFolder().read(tmp_path)
    count = len(decoded)
    raw = ImageFolder(test=0.5).read(tmp_path)
    assert torch.bincount(raw.y_test).tolist() == [5, 2, 1]
    assert len(decoded) == count  # the cache holds all images, whatever the split
    most = ImageFolder(test=0.99).read(tmp_path)
    assert torch.bincount(most.y_train).tolist() == [1, 1, 1]


def test_every_ending_is_read_and_the_rest_passed_over(tmp_path: Path) -> None:
    for i, ending in enumerate(["png", "JPG", "jpeg", "bmp", "webp", "gif", "ppm"]):
        paint(tmp_path / "a" / f"{i}.{ending}", i)
        paint(tmp_path / "b" / f"{i}.{ending}", i)
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / "._0.png").write_bytes(b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    raw = ImageFolder().read(tmp_path)
    assert len(raw.y_train) + len(raw.y_test) == 14 and raw.num_classes == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("car", "train"):
        for i in range(3):
            paint(tmp_path / name / f"{i}.png", i)
    assert ImageFolder().read(tmp_path).num_classes == 2


def test_grey_images(tmp_path: Path) -> None:
    for name, value in (("a", 10), ("b", 200)):
        for i in range(2):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (5, 3), value).save(path)
    grey, colour = ImageFolder(channels=1).read(tmp_path), ImageFolder().read(tmp_path)
    assert grey.x_train.shape == (2, 1, 3, 5) and colour.x_train.shape == (2, 3, 3, 5)
    assert grey.x_train[:, 0, 0, 0].tolist() == colour.x_train[:, 2, 0, 0].tolist() == [10, 200]


@pytest.mark.parametrize(("width", "height"), [(12, 4), (4, 12)])
def test_size_cuts_out_the_centre(tmp_path: Path, width: int, height: int) -> None:
    x = decode(paint(tmp_path / "x.png", 9, width=width, height=height), size=4, channels=3)
    line, column = range((height - 4) // 2, (height + 4) // 2), range(4)
    if width > height:
        line, column = range(4), range(4, 8)
    assert x.shape == (3, 4, 4)
    assert x[1, :, 0].tolist() == list(line) and x[2, 0].tolist() == list(column)


@pytest.mark.parametrize(("width", "height"), [(64, 32), (31, 47), (16, 16), (5, 9)])
def test_size_brings_every_shape_to_one(tmp_path: Path, width: int, height: int) -> None:
    x = decode(paint(tmp_path / "x.png", 90, width=width, height=height), size=16, channels=3)
    assert x.shape == (3, 16, 16) and (x[0] == 90).all()


def test_size_resizes_as_torchvision_does(tmp_path: Path) -> None:
    from lth.torchvision_import import torchvision

    transforms = torchvision().transforms
    noise = np.random.default_rng(0).integers(256, size=(37, 53, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    theirs = transforms.CenterCrop(16)(transforms.Resize(16)(Image.fromarray(noise)))
    ours = decode(tmp_path / "x.png", size=16, channels=3)
    assert np.array_equal(ours, np.asarray(theirs).transpose(2, 0, 1))


def test_unequal_images_want_a_size(tmp_path: Path) -> None:
    two_parts(tmp_path)
    paint(tmp_path / "train" / "cat" / "c.png", 0, width=7, height=5)
    paint(tmp_path / "train" / "dog" / "b.png", 0, width=9)
    with pytest.raises(ValueError, match=r"cat.c\.png: 7x5 pixels, but a\.png has 4x4: .*size="):
        ImageFolder().read(tmp_path)
    assert ImageFolder(size=4).read(tmp_path).x_train.shape == (5, 3, 4, 4)


def test_the_second_reading_comes_from_the_cache(tmp_path: Path, decoded: list[Path]) -> None:
    first = ImageFolder().read(two_parts(tmp_path))
    assert len(decoded) == 8 + 1
    again = ImageFolder(workers=1).read(tmp_path)
    assert len(decoded) == 9 and again.digest == first.digest
    assert [path.suffix for path in cached(tmp_path)] == [".safetensors"]


def test_a_copy_of_the_folder_shares_a_cache(tmp_path: Path, decoded: list[Path]) -> None:
    store = str(tmp_path / "store")
    for name in ("one", "two"):
        ImageFolder(cache=store).read(two_parts(tmp_path / name))
    assert len(decoded) == 9 and not (tmp_path / "one" / ".lth-cache").exists()


def test_options_and_contents_have_caches_of_their_own(tmp_path: Path, decoded: list[Path]) -> None:
    two_parts(tmp_path)
    ImageFolder().read(tmp_path)
    assert ImageFolder(size=2).read(tmp_path).x_train.shape == (5, 3, 2, 2)
    assert ImageFolder(channels=1).read(tmp_path).x_train.shape == (5, 1, 4, 4)
    assert len(cached(tmp_path)) == 3
    paint(tmp_path / "train" / "cat" / "a.png", 77)
    assert ImageFolder().read(tmp_path).x_train[0, 0, 0, 0].item() == 77
    (tmp_path / "train" / "cat" / "a.png").rename(tmp_path / "train" / "dog" / "c.png")
    assert ImageFolder().read(tmp_path).y_train.tolist() == [0, 0, 1, 1, 1]
    assert len(cached(tmp_path)) == 5 and len(decoded) == 5 * 9


@pytest.mark.parametrize("damage", ["pixel", "truncated", "emptied", "renamed"])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    first = ImageFolder().read(two_parts(tmp_path))
    (path,) = cached(tmp_path)
    whole = path.read_bytes()
    if damage == "renamed":  # another folder's cache under this one's name
        ImageFolder(size=2).read(tmp_path)
        (other,) = set(cached(tmp_path)) - {path}
        other.rename(path)
    else:
        wrong = {"pixel": whole[:-1] + bytes([whole[-1] ^ 1]), "truncated": whole[:-1]}
        path.write_bytes(wrong.get(damage, b""))
    with caplog.at_level(logging.WARNING):
        assert ImageFolder().read(tmp_path).digest == first.digest
    (record,) = caplog.records
    assert f"{path} is damaged" in record.message and "\n" not in record.message
    assert path.read_bytes() == whole
    caplog.clear()
    ImageFolder().read(tmp_path)
    assert not caplog.records


def test_where_the_folder_cannot_be_written_the_home_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[Path]
) -> None:
    data, home = two_parts(tmp_path / "data"), tmp_path / "home"
    (data / ".lth-cache").write_text("a file where the directory should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    ImageFolder().read(data)
    assert [p.suffix for p in (home / "lth").iterdir()] == [".safetensors"]
    ImageFolder().read(data)
    assert len(decoded) == 9


def test_without_any_cache_it_says_so_and_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = two_parts(tmp_path / "data")
    for blocked in (data / ".lth-cache", tmp_path / "home"):
        blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert len(ImageFolder().read(data).y_train) == 5
    assert "images not cached: cannot write to" in caplog.text


def test_a_cache_that_cannot_be_written_is_refused_where_the_user_named_it(
    tmp_path: Path, decoded: list[Path]
) -> None:
    (tmp_path / "blocked").write_text("")
    with pytest.raises(OSError, match="cache: got .*blocked, allowed: a directory that can be"):
        ImageFolder(cache=str(tmp_path / "blocked")).read(two_parts(tmp_path / "data"))
    assert not decoded


def test_a_failed_write_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert len(ImageFolder().read(two_parts(tmp_path)).y_train) == 5
    assert "no space left" in caplog.text and cached(tmp_path) == []


def no_directory(root: Path) -> Path:
    return root / "absent"


def no_classes(root: Path) -> Path:
    (root / "picture.png").write_bytes(b"")
    return root


def no_test(root: Path) -> Path:
    paint(root / "train" / "cat" / "a.png", 0)
    return root / "test"


def one_class(root: Path) -> Path:
    paint(root / "cat" / "a.png", 0)
    return root


def one_class_in_train(root: Path) -> Path:
    paint(root / "train" / "cat" / "a.png", 0)
    paint(root / "test" / "cat" / "a.png", 0)
    return root / "train"


def unknown_class(root: Path) -> Path:
    paint(two_parts(root) / "test" / "horse" / "a.png", 0)
    return root / "test" / "horse"


def empty_class(root: Path) -> Path:
    (two_parts(root) / "train" / "horse").mkdir()
    return root / "train" / "horse"


def single_image(root: Path) -> Path:
    paint(one_part(root) / "lonely" / "a.png", 0)
    return root / "lonely"


def not_an_image(root: Path) -> Path:
    path = two_parts(root) / "train" / "dog" / "b.png"
    path.write_bytes(b"GIF? no")
    return path


def half_an_image(root: Path) -> Path:
    path = paint(two_parts(root) / "test" / "dog" / "x.jpg", 0, width=64, height=64)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def deep_image(root: Path) -> Path:
    path = two_parts(root) / "train" / "cat" / "a.png"
    Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(path)
    return path


@pytest.mark.parametrize(
    ("arrange", "error", "words"),
    [
        (no_directory, FileNotFoundError, "no directory .*data_dir="),
        (no_classes, FileNotFoundError, "no class folders in .*data_dir="),
        (no_test, FileNotFoundError, "no directory .*the other part"),
        (one_class, ValueError, r"got 1 class \(cat\), needed: 2"),
        (one_class_in_train, ValueError, r"got 1 class \(cat\), needed: 2"),
        (unknown_class, ValueError, "a class in test that .* lacks"),
        (empty_class, ValueError, "a class folder without images"),
        (single_image, ValueError, "1 image, needed: 2"),
        (not_an_image, ValueError, "cannot be read as an image"),
        (half_an_image, ValueError, "cannot be read as an image .*(?i:truncated)"),
        (deep_image, ValueError, "more than 8 bits"),
    ],
)
def test_an_error_is_one_line_and_names_the_path(
    tmp_path: Path, arrange: object, error: type[Exception], words: str
) -> None:
    path = arrange(tmp_path)  # type: ignore[operator]
    data_dir = tmp_path / "absent" if arrange is no_directory else tmp_path
    with pytest.raises(error, match=words) as caught:
        ImageFolder().read(data_dir)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [("test", 0.0), ("test", 1.0), ("size", 0), ("channels", 2), ("workers", 0)],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{option}: got {value}, allowed: "):
        ImageFolder(**{option: value})  # type: ignore[arg-type]


def test_test_is_refused_where_there_is_a_test_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test: got 0.3, allowed: left out, as .*test is the test"):
        ImageFolder(test=0.3).read(two_parts(tmp_path))


def test_the_spec_holds_what_changes_the_pixels() -> None:
    assert spec(ImageFolder(workers=7, cache="elsewhere")) == {"name": "ImageFolder"}
    changed = spec(ImageFolder(size=8, channels=1, test=0.5))
    assert changed == {"name": "ImageFolder", "size": 8, "channels": 1, "test": 0.5}


def test_many_large_images_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folder, "CHUNK", 4)
    monkeypatch.setattr(image_folder, "SMALL", 0)
    one_part(tmp_path, counts=(40, 40))
    raw = ImageFolder(workers=4).read(tmp_path)
    shown = torch.cat([raw.x_train, raw.x_test])[:, 0, 0, 0].tolist()
    assert sorted(shown) == [*range(40), *range(50, 90)]
    assert raw.x_train[:, 0, 0, 0].tolist() == sorted(raw.x_train[:, 0, 0, 0].tolist())


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("decoding", 4000) as advance:
        for seconds in (1.0, 6.0, 7.0, 12.0):
            now[0] = seconds
            advance(1000)
    out, err = capsys.readouterr()
    assert out == "" and err == "decoding: 2,000 of 4,000\ndecoding: 4,000 of 4,000\n"


def test_progress_on_a_terminal_is_a_bar_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("decoding", 10) as advance:
        advance(10)
    out, err = capsys.readouterr()
    assert out == "" and "decoding" in err and "100%" in err
