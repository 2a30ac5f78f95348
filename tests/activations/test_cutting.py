"""Cutting windows: against a crop a window, written a second time with Pillow alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.activations.cutting import cut_patches, cut_windows, squash_windows
from pipeline.patches.grid import grid_windows
from pipeline.settings import GridSettings


def crop_one(pixels, box, side, px):
    """One window: rescale the picture so that a window of `side` is `px` wide, then crop it."""
    height, width = pixels.shape[:2]
    factor = px / side
    size = max(px, round(width * factor)), max(px, round(height * factor))
    left = min(max(round(box[0] * factor), 0), size[0] - px)
    top = min(max(round(box[1] * factor), 0), size[1] - px)
    scaled = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(scaled.crop((left, top, left + px, top + px)))


@pytest.mark.parametrize("px", [8, 16, 33])
@pytest.mark.parametrize("seed", range(6))
def test_cut_patches_equals_a_crop_for_each_window(seed, px):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(17, 90, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    boxes, scale = grid_windows(int(width), int(height), GridSettings(scales=(1.0, 1.3, 2.0), overlap=0.5))

    got = cut_patches(pixels, boxes, scale, "grid", px)

    assert (got.shape, got.dtype) == ((len(boxes), px, px, 3), np.uint8)
    for index, box in enumerate(boxes):
        first = boxes[scale == scale[index]][0]  # sides of one scale differ in the last bit
        assert np.array_equal(got[index], crop_one(pixels, box, first[2] - first[0], px)), (index, box)


def test_rows_that_start_in_the_middle_of_a_picture():
    # A part begins anywhere, also between two scales and inside of one.
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    boxes, scale = grid_windows(60, 40, GridSettings(scales=(1.0, 2.0), overlap=0.5))
    whole = cut_patches(pixels, boxes, scale, "grid", 16)
    for start, stop in ((1, 4), (0, 1), (2, len(boxes)), (len(boxes) - 1, len(boxes))):
        got = cut_patches(pixels, boxes[start:stop], scale[start:stop], "grid", 16)
        assert np.array_equal(got, whole[start:stop])


@pytest.mark.parametrize("axis", [0, 1], ids=["left to right", "top to bottom"])
def test_windows_show_their_place(axis):
    # Each pixel's value is its own coordinate: 0 ... 199 along one axis.
    ramp = np.arange(200, dtype=np.uint8)
    pixels = np.broadcast_to((ramp if axis == 0 else ramp[:, None])[..., None], (200, 200, 3)).copy()
    boxes = np.array([[0, 0, 50, 50], [150, 0, 200, 50], [30, 90, 80, 140], [150, 150, 200, 200]], float)

    for box, window in zip(boxes, cut_windows(pixels, boxes, 25), strict=True):
        profile = window[..., 0].mean(axis=axis)
        # Cell i of 25 covers 2 px, whose mean value is that of their centre.
        assert np.allclose(profile, box[axis] + 2 * np.arange(25) + 0.5, atol=1.5), box


def test_windows_keep_the_order_of_the_boxes():
    pixels = np.zeros((20, 80, 3), np.uint8)
    for i in range(4):
        pixels[:, 20 * i : 20 * (i + 1)] = 60 * i
    boxes = np.array([[20 * i, 0, 20 * (i + 1), 20] for i in (2, 0, 3, 1)], float)
    assert [int(w[5, 5, 0]) for w in cut_windows(pixels, boxes, 10)] == [120, 0, 180, 60]


def test_colours_keep_their_order():
    pixels = np.broadcast_to(np.array([10, 100, 200], np.uint8), (20, 20, 3)).copy()
    assert (cut_windows(pixels, np.array([[0, 0, 10, 10]], float), 8) == [10, 100, 200]).all()


@pytest.mark.parametrize("size_wh", [(40, 20), (20, 40), (7, 31)])
def test_whole_picture_is_squashed_to_a_square(size_wh):
    pixels = np.random.default_rng(1).integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)
    box = np.array([[0, 0, *size_wh]], float)
    got = cut_patches(pixels, box, np.zeros(1, np.uint8), "whole", 16)
    assert np.array_equal(got[0], np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR)))


def test_squashed_windows_show_their_place():
    pixels = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (60, 200, 3)).copy()
    (window,) = squash_windows(pixels, np.array([[100, 10, 140, 50]], float), 10)
    assert np.allclose(window[..., 0], 100 + 4 * np.arange(10) + 1.5, atol=2)
