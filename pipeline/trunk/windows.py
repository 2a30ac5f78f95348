"""Windows of rescaled pictures, on the device that runs the trunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.trunk.device_memory import explain_memory
from pipeline.trunk.resample import resize

FEWER_PICTURES = "use fewer --threads, which hold fewer pictures ahead, or a device that nothing else uses"


class ScaledWindows(NamedTuple):
    """Windows of one rescaled picture, all on one device.

    Attributes
    ----------
    pixels : uint8 Tensor (height, width, 3), RGB
    x, y : int64 Tensors (n,), upper left corners of the windows in pixels
    """

    pixels: Tensor
    x: Tensor
    y: Tensor


class PlacedWindows(NamedTuple):
    """Windows of one picture at one scale, before the picture is rescaled.

    Attributes
    ----------
    size_wh : (width, height) of the rescaled picture
    x, y : int64 ndarrays (n,), upper left corners of the windows in the rescaled picture, in pixels
    """

    size_wh: tuple[int, int]
    x: np.ndarray
    y: np.ndarray


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy an array to a device's memory; the CPU does not wait for a GPU."""
    if device.type != "cuda":
        return torch.from_numpy(array)
    tensor = page_locked(array.shape, torch.from_numpy(array[:0].copy()).dtype)
    tensor.numpy()[...] = array
    return tensor.to(device, non_blocking=True)


def page_locked(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Allocate memory of the CPU that a GPU copies from while the CPU goes on.

    From other memory the driver may wait for all that was launched. torch keeps the memory until the copy is over.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)


def _upload_corners(windows: Sequence[tuple[np.ndarray, np.ndarray]], device: torch.device) -> list[Tensor]:
    """Copy the corners of a picture's windows in one piece: per scale an int64 Tensor (2, n), x and y."""
    joined = np.concatenate([np.stack(corners) for corners in windows], axis=1).astype(np.int64, copy=False)
    return list(to_device(joined, device).split([len(x) for x, _ in windows], dim=1))


def upload_windows(
    scaled: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], device: torch.device
) -> list[ScaledWindows]:
    """Copy the rescaled forms of one picture, with the corners of their windows, in two copies.

    Parameters
    ----------
    scaled : of each scale: uint8 ndarray (height, width, 3), and x and y of the windows, int ndarrays (n,)
    """
    with explain_memory(device, "the rescaled pictures that are decoded ahead", FEWER_PICTURES):
        corners = _upload_corners([(x, y) for _, x, y in scaled], device)
        if device.type == "cpu":
            pixels = [torch.from_numpy(array) for array, _, _ in scaled]
        else:
            sizes = [array.size for array, _, _ in scaled]
            joined = page_locked([sum(sizes)], torch.uint8)
            for piece, (array, _, _) in zip(joined.split(sizes), scaled, strict=True):
                piece.numpy()[...] = array.reshape(-1)
            on_device = joined.to(device, non_blocking=True).split(sizes)
            pixels = [piece.view(array.shape) for piece, (array, _, _) in zip(on_device, scaled, strict=True)]
        return [ScaledWindows(picture, *xy) for picture, xy in zip(pixels, corners, strict=True)]


def rescale_on_device(
    picture: np.ndarray, placed: Sequence[PlacedWindows], interpolation: str, device: torch.device
) -> list[ScaledWindows]:
    """Copy a picture as it was decoded, and rescale it on the device; otherwise as `upload_windows`.

    Parameters
    ----------
    picture : uint8 ndarray of shape (height, width, 3), RGB
    interpolation : for which `pipeline.trunk.resample.equals_pillow` is true
    """
    with explain_memory(device, "the rescaled pictures that are decoded ahead", FEWER_PICTURES):
        corners = _upload_corners([(windows.x, windows.y) for windows in placed], device)
        pixels = to_device(picture, device)
        return [
            ScaledWindows(resize(pixels, windows.size_wh, interpolation), *xy)
            for windows, xy in zip(placed, corners, strict=True)
        ]


def gather_windows(scaled: Tensor, x: Tensor, y: Tensor, px: int) -> Tensor:
    """Gather windows of a picture in one operation, as suits a GPU: uint8 Tensor (n, px, px, 3).

    Parameters
    ----------
    scaled : uint8 Tensor of shape (height, width, 3)
    x, y : int64 Tensors of shape (n,), upper left corners, on the device of `scaled`
    """
    views = scaled.unfold(0, px, 1).unfold(1, px, 1)
    return views[y, x].permute(0, 2, 3, 1)


def cut_windows(scaled: Tensor, x: Tensor, y: Tensor, batch: Tensor) -> None:
    """Copy windows of a rescaled picture into a batch, on their device.

    Parameters
    ----------
    scaled, x, y : as in `ScaledWindows`
    batch : uint8 Tensor (n, px, px, 3) to write to
    """
    px = batch.shape[1]
    if scaled.device.type == "cpu":
        for patch, left, top in zip(batch, x.tolist(), y.tolist(), strict=True):
            patch.copy_(scaled[top : top + px, left : left + px])
    else:
        batch.copy_(gather_windows(scaled, x, y, px))
