"""Sources of a picture's patches: the grid, the whole picture, crops of it, or a person's box.

Windows are boxes in pixels of the picture. They may leave it (``boxes``): when patches are cut, pixels outside are
the picture mirrored at its edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.io.errors import BadPictureError
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import CropSettings, SourceSettings


class Windows(NamedTuple):
    """Patches of one picture.

    Attributes
    ----------
    box_xyxy : float64 ndarray of shape (n, 4), continuous, in pixels of the picture
    scale : uint8 ndarray of shape (n,), index into the grid's scales; for other sources the patch's number
    flip : bool ndarray of shape (n,), mirrored left to right after cutting; None if no patch of the source ever is
    turn : float32 ndarray of shape (n,), degrees, counter-clockwise, by which the picture is turned about its middle
        before the patch is cut; None if no patch of the source ever is
    """

    box_xyxy: np.ndarray
    scale: np.ndarray
    flip: np.ndarray | None
    turn: np.ndarray | None = None


def plan_windows(width: int, height: int, settings: SourceSettings, sample_xyxy: np.ndarray | None = None) -> Windows:
    """Plan all patches of a picture.

    Parameters
    ----------
    width, height : size of the picture in pixels
    sample_xyxy : float ndarray of shape (4,), box of the person that the sample is; for ``boxes`` alone

    Raises
    ------
    BadPictureError
        Too small, too many windows, or no box for ``boxes``.

    Examples
    --------
    >>> settings = SourceSettings(source="crops", crops={"shares": [0.5], "flips": False})
    >>> plan_windows(100, 80, settings).box_xyxy[:3].tolist()
    [[0.0, 0.0, 100.0, 80.0], [30.0, 20.0, 70.0, 60.0], [0.0, 0.0, 40.0, 40.0]]
    >>> plan_windows(100, 80, SourceSettings(source="boxes", boxes={"margin": 1}), np.array([0, 0, 20, 40])).box_xyxy
    array([[-10.,   0.,  30.,  40.]])
    """
    if settings.source == "grid":
        return Windows(*grid_windows(width, height, settings.grid), None)
    if settings.source == "whole":
        return Windows(np.array([[0.0, 0.0, width, height]]), np.zeros(1, np.uint8), None)
    if settings.source == "crops":
        smallest = min(width, height) * min(settings.crops.shares, default=1.0)
        if smallest < settings.grid.min_side_px:
            raise BadPictureError(
                f"{width} x {height} pixels: the smallest crop is {smallest:.1f} px, "
                f"at least {settings.grid.min_side_px:g} are needed",
                ("grid.min_side_px", smallest),
            )
        return _plan_crops(width, height, settings.crops)
    if sample_xyxy is None:
        raise BadPictureError("no box: source boxes needs samples that are persons")
    return _with_mirrored(square_window(sample_xyxy, settings.boxes.margin)[None], settings.boxes.flips)


def count_windows(width: int, height: int, settings: SourceSettings) -> int:
    """Count the patches of a picture of this size; raises as `plan_windows`."""
    return len(plan_windows(width, height, settings, np.array([0, 0, width, height])).scale)


def crop_windows(width: int, height: int, crops: CropSettings) -> np.ndarray:
    """List the crops of a picture, not mirrored.

    Returns
    -------
    float64 ndarray of shape (n, 4)
        The whole picture, then for each share the square in the centre and those in the top left, top right,
        bottom left and bottom right corner.
    """
    boxes = [[0.0, 0.0, width, height]] if crops.whole else []
    for share in crops.shares:
        side = share * min(width, height)
        right, bottom = width - side, height - side
        corners = [(right / 2, bottom / 2), (0.0, 0.0), (right, 0.0), (0.0, bottom), (right, bottom)]
        boxes += [[x, y, x + side, y + side] for x, y in corners]
    return np.array(boxes).reshape(-1, 4)


def _plan_crops(width: int, height: int, crops: CropSettings) -> Windows:
    """Plan the crops of a picture; turned ones, which are of the whole picture, come after the others."""
    whole = np.array([0.0, 0.0, width, height])
    boxes = np.concatenate([crop_windows(width, height, crops), np.tile(whole, (len(crops.turns), 1))])
    windows = _with_mirrored(boxes, crops.flips)
    if not crops.turns:
        return windows
    turn = np.zeros(len(boxes), np.float32)
    turn[-len(crops.turns) :] = crops.turns
    return windows._replace(turn=np.concatenate([turn] * (1 + crops.flips)))


def square_window(box_xyxy: np.ndarray, margin: float) -> np.ndarray:
    """Make the square centred on a box, `margin` times its longer side wide; it may leave the picture."""
    x0, y0, x1, y1 = map(float, box_xyxy)
    half = margin * max(x1 - x0, y1 - y0) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return np.array([x - half, y - half, x + half, y + half])


def _with_mirrored(boxes: np.ndarray, flips: bool) -> Windows:
    """Number the windows; with `flips` all of them come a second time, mirrored, after the first."""
    flip = np.arange(len(boxes) * (1 + flips)) >= len(boxes)
    boxes = np.concatenate([boxes] * (1 + flips))
    return Windows(boxes, np.arange(len(boxes), dtype=np.uint8), flip)
