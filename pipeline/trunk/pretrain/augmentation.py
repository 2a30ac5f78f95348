"""Normalise and augment pixels for a network that is being trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.trunk.card import IMAGENET_MEAN, IMAGENET_STD
from pipeline.trunk.settings import PretrainSettings

ZOOM_GROUPS = 8


def normalise(pixels: Tensor) -> Tensor:
    """uint8 or float (n, h, w, 3) in 0..255 -> normalised float (n, 3, h, w), channels last in memory."""
    mean = torch.tensor(IMAGENET_MEAN) * 255
    std = torch.tensor(IMAGENET_STD) * 255
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2)


def augment(batch: Tensor, settings: PretrainSettings, random: torch.Generator) -> Tensor:
    """Zoom (one factor for each eighth of the batch), then shift and flip each picture.

    Parameters
    ----------
    batch : float Tensor of shape (n, 3, px, px)

    Returns
    -------
    Tensor of the same shape, channels last in memory
    """
    px = batch.shape[-1]
    low, high = math.log(settings.zoom[0]), math.log(settings.zoom[1])
    groups = []
    for group in batch.chunk(ZOOM_GROUPS):
        zoom = math.exp(low + (high - low) * torch.rand(1, generator=random).item())
        # Every second group stays sharp: a frozen trunk sees pictures that were not zoomed.
        size = round(px * zoom) if torch.rand(1, generator=random).item() < 0.5 else px
        if size != px:
            group = functional.interpolate(group, size=size, mode="bilinear", align_corners=False)
        # Enough mirrored margin that every shift stays inside.
        margin = settings.shift_px + max(0, (px - size + 1) // 2)
        group = functional.pad(group, (margin,) * 4, mode="reflect")
        slack = group.shape[-1] - px
        centre = slack // 2
        reach = min(centre, max(settings.shift_px, abs(size - px) // 2))
        shifts = centre + torch.randint(-reach, reach + 1, (2, len(group), 1), generator=random)
        top, left = shifts.clamp_(0, slack)
        steps = torch.arange(px)
        flip = torch.rand(len(group), 1, generator=random) < 0.5
        columns = torch.where(flip, steps.flip(0), steps) + left
        rows = steps + top
        index = torch.arange(len(group))[:, None, None]
        cut = group.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
        groups.append(cut.permute(0, 3, 1, 2))
    return torch.cat(groups).contiguous(memory_format=torch.channels_last)
