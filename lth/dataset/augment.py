"""Random crop and mirror image, for a whole batch at once on its device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(x: Tensor, *, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Each image of ``x`` (B, C, H, W) padded, cropped at its own offset, mirrored where told.

    ``top`` and ``left`` (B,) int64 in [0, 2 * padding] are the corner of the
    crop in the padded image (``padding`` = the image as it was); ``mirrored``
    (B,) bool turns the crop left to right. All lie on the device of ``x``.
    The border is 0.0 in units of ``x``: call it on the *normalised* batch, so
    that a padded pixel has the mean colour (torchvision's recipe, which pads
    first and normalises later, has black ones). ``x`` is not modified.
    """
    batch, channels, height, width = x.shape
    padded = functional.pad(x, (padding,) * 4)
    across = torch.arange(width, device=x.device)
    columns = left[:, None] + torch.where(mirrored[:, None], across.flip(0), across)
    rows = top[:, None] + torch.arange(height, device=x.device)
    # One index per pixel, shared by the channels: a single gather for the batch.
    index = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view(x.shape)


def draw(
    n: int, *, crop: int, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """``(top, left, mirrored)`` for ``n`` images, on the CPU, as ``augment`` takes them.

    What is off is 0 or False. It is drawn all the same, so that switching the
    crop leaves the flips as they were, and the other way round.
    """
    top = torch.randint(2 * crop + 1, (n,), generator=generator)
    left = torch.randint(2 * crop + 1, (n,), generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator) == 1
    return top, left, mirrored & flip
