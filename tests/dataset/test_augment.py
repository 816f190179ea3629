"""Augmentation: exact against a loop over images, and the draws that feed it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lth.dataset.augment import augment, draw
from lth.stream import generator


def by_hand(x: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    batch, channels, height, width = x.shape
    out = []
    for i in range(batch):
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=x.dtype)
        padded[:, padding : padding + height, padding : padding + width] = x[i]
        image = padded[:, top[i] : top[i] + height, left[i] : left[i] + width]
        out.append(image.flip(2) if mirrored[i] else image)
    return torch.stack(out)


@pytest.mark.parametrize("shape", [(9, 3, 8, 8), (5, 1, 4, 7), (1, 2, 6, 3)])
@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (2, False), (4, True)])
def test_equals_a_loop_over_images(shape: tuple[int, ...], crop: int, flip: bool) -> None:
    x = torch.randn(shape, generator=generator("test", *shape))
    top, left, mirrored = draw(len(x), crop=crop, flip=flip, generator=generator("draw"))
    before = x.clone()
    got = augment(x, top=top, left=left, mirrored=mirrored, padding=crop)
    assert torch.equal(got, by_hand(x, top, left, mirrored, crop))
    assert got.shape == x.shape and got.dtype == x.dtype
    assert torch.equal(x, before)


def test_a_literal_image() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).expand(4, 1, 2, 2)
    got = augment(
        x,
        top=torch.tensor([1, 0, 2, 1]),
        left=torch.tensor([1, 0, 1, 2]),
        mirrored=torch.tensor([False, False, False, True]),
        padding=1,
    )
    expected = [[[1, 2], [3, 4]], [[0, 0], [0, 1]], [[3, 4], [0, 0]], [[0, 2], [0, 4]]]
    assert got[:, 0].tolist() == expected


def test_the_middle_offset_changes_nothing() -> None:
    x = torch.randn(3, 2, 5, 5)
    same = torch.full((3,), 4)
    got = augment(x, top=same, left=same, mirrored=torch.zeros(3, dtype=torch.bool), padding=4)
    assert torch.equal(got, x)


def test_draws_cover_every_offset_evenly() -> None:
    top, left, mirrored = draw(18000, crop=4, flip=True, generator=generator("even"))
    for offsets in (top, left):
        assert offsets.dtype == torch.int64 and offsets.shape == (18000,)
        counts = torch.bincount(offsets, minlength=9)
        assert len(counts) == 9 and (counts - 2000).abs().max() < 250  # 6 standard deviations
    assert not torch.equal(top, left)
    assert mirrored.dtype == torch.bool and abs(int(mirrored.sum()) - 9000) < 400


def test_what_is_off_is_zero_and_leaves_the_rest_as_it_was() -> None:
    top, left, mirrored = draw(64, crop=4, flip=True, generator=generator("a"))
    top_0, left_0, mirrored_0 = draw(64, crop=0, flip=True, generator=generator("a"))
    top_1, left_1, mirrored_1 = draw(64, crop=4, flip=False, generator=generator("a"))
    assert not top_0.any() and not left_0.any() and torch.equal(mirrored_0, mirrored)
    assert not mirrored_1.any() and torch.equal(top_1, top) and torch.equal(left_1, left)


def test_equal_streams_draw_equal_numbers() -> None:
    first = draw(64, crop=2, flip=True, generator=generator("order", 0))
    again = draw(64, crop=2, flip=True, generator=generator("order", 0))
    other = draw(64, crop=2, flip=True, generator=generator("order", 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
