"""Cutting windows: against a crop a window, written a second time with Pillow alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.activations.cutting import cut_patches, cut_windows, mirror_index, mirror_windows, squash_windows
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings


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


# ---- windows that leave the picture, and mirrored ones ---------------------------------------------


def numbered(width: int, height: int) -> np.ndarray:
    """A picture whose pixel in row y and column x is 10 y + x (and a channel more each)."""
    grey = 10 * np.arange(height)[:, None] + np.arange(width)[None, :]
    return np.stack([grey, grey + 1, grey + 2], axis=2).astype(np.uint8)


def tiled(pixels: np.ndarray, times: int) -> np.ndarray:
    """The picture among its mirror images, `times` of them on each side: the slow, obvious mirror room."""
    across = np.concatenate([pixels if i % 2 == 0 else pixels[:, ::-1] for i in range(-times, times + 1)], axis=1)
    return np.concatenate([across if i % 2 == 0 else across[::-1] for i in range(-times, times + 1)], axis=0)


def test_a_border_can_be_read_by_eye():
    # Columns 0 1 2 3 and two beyond each edge: 1 0 | 0 1 2 3 | 3 2; rows likewise.
    (window,) = mirror_windows(numbered(4, 4), np.array([[-2, -2, 6, 6]], float), 8)

    assert window[2, :, 0].tolist() == [1, 0, 0, 1, 2, 3, 3, 2]
    assert window[:, 2, 0].tolist() == [10, 0, 0, 10, 20, 30, 30, 20]
    assert window[0, 0].tolist() == [11, 12, 13] and window[-1, -1].tolist() == [22, 23, 24]


def test_an_overhang_larger_than_the_picture_is_mirrored_again():
    (window,) = mirror_windows(numbered(2, 2), np.array([[-5, -5, 7, 7]], float), 12)

    assert window[5, :, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]


@given(size=st.integers(1, 12), start=st.integers(-60, 60), length=st.integers(0, 40))
def test_mirror_index_is_the_mirror_room(size, start, length):
    room = [*range(size), *reversed(range(size))] * 200
    first = 200 * size + start  # in the middle of the room, where the picture stands the right way round

    assert mirror_index(start, start + length, size).tolist() == room[first : first + length]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("px", [8, 16, 33])
@pytest.mark.parametrize("seed", range(8))
def test_mirrored_windows_are_those_of_the_mirror_room(seed, px, interpolation):
    rng = np.random.default_rng(seed)
    width, height = rng.integers(5, 40, 2)
    pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
    corner = rng.uniform(-2 * min(width, height), max(width, height), (6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 60, (6, 1))], axis=1)
    room, shift = tiled(pixels, 24), np.array([width, height] * 2) * 24

    got = mirror_windows(pixels, boxes, px, interpolation)

    assert (got.shape, got.dtype) == ((6, px, px, 3), np.uint8)
    for window, box in zip(got.astype(int), boxes + shift, strict=True):
        # Pillow keeps a box in float32: far from the corner, a sharp filter lands on other pixels.
        x, y = box[:2].astype(int) - 40
        near = squash_windows(room[y : y + 160, x : x + 160], (box - [x, y, x, y])[None], px, interpolation)
        assert np.abs(window - near[0]).max() <= 1


def test_a_window_well_inside_is_cut_as_if_there_were_no_mirror():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    boxes = np.array([[20.0, 15.0, 50.0, 45.0], [30.5, 20.25, 46.75, 36.5]])

    assert np.abs(mirror_windows(pixels, boxes, 16).astype(int) - squash_windows(pixels, boxes, 16)).max() <= 1


@pytest.mark.parametrize("source", ["crops", "boxes"])
def test_a_flipped_patch_is_its_patch_mirrored(source):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 60, 3), np.uint8)
    boxes = np.array([[5, 5, 35, 35], [5, 5, 35, 35], [30, 10, 50, 30]], float)
    scale = np.arange(3, dtype=np.uint8)

    plain, flipped, other = cut_patches(pixels, boxes, scale, source, 16, np.array([False, True, False]))

    assert np.array_equal(flipped, np.fliplr(plain)) and not np.array_equal(flipped, plain)
    unflipped = cut_patches(pixels, boxes, scale, source, 16)
    assert np.array_equal(unflipped[:2], [plain, plain]) and np.array_equal(unflipped[2], other)


@pytest.mark.parametrize("source", ["crops", "boxes"])
def test_a_flipped_patch_is_the_patch_of_the_mirrored_picture(source):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)
    box = np.array([[5, 5, 35, 35]], float)

    (flipped,) = cut_patches(pixels, box, np.zeros(1, np.uint8), source, 16, np.array([True]))

    (there,) = cut_patches(pixels[:, ::-1], np.array([[25, 5, 55, 35]], float), np.zeros(1, np.uint8), source, 16)
    assert np.abs(flipped.astype(int) - there).max() <= 1


@pytest.mark.parametrize("source", ["grid", "whole"])
def test_interpolation_is_the_asked_one(source):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    box, scale = np.array([[0, 0, 40, 40]], float), np.zeros(1, np.uint8)
    for name in ("bilinear", "bicubic"):
        (got,) = cut_patches(pixels, box, scale, source, 16, None, name)
        expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling[name.upper()])
        assert np.array_equal(got, np.asarray(expected)), name
    assert np.array_equal(
        cut_patches(pixels, box, scale, source, 16), cut_patches(pixels, box, scale, source, 16, None, "bilinear")
    )


def turned(pixels, degrees, px=24, **options):
    turn = np.array([degrees], np.float32)
    whole = np.array([[0, 0, pixels.shape[1], pixels.shape[0]]], float)
    (got,) = cut_patches(pixels, whole, np.zeros(1, np.uint8), "crops", px, turn=turn, **options)
    return got.astype(int)


def test_a_picture_is_turned_counter_clockwise_about_its_middle():
    pixels = np.random.default_rng(4).integers(0, 256, (48, 48, 3), np.uint8)
    inside = slice(1, -1)  # at the edges the filter reads what is mirrored
    plain = turned(pixels, 0)[inside, inside]
    for quarter in (1, 2, 3):
        degrees = 90 * quarter if quarter < 3 else -90
        assert np.abs(turned(pixels, degrees)[inside, inside] - np.rot90(plain, quarter)).max() <= 2
    wide = np.random.default_rng(5).integers(0, 256, (40, 70, 3), np.uint8)
    upside_down = turned(wide, 0)[::-1, ::-1]
    assert np.abs(turned(wide, 180) - upside_down)[inside, inside].max() <= 2


@pytest.mark.parametrize(("degrees", "size"), [(-30, (60, 90)), (30, (90, 60)), (77, (64, 64))])
def test_a_turned_picture_is_mirrored_beyond_its_edges(degrees, size):
    """Against every pixel sought for itself, in a picture that changes slowly."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([128 + 90 * np.sin(x / 17) * np.cos(y / 13), 2 * x, 2 * y], axis=2).clip(0, 255).astype(np.uint8)
    px = 20
    got = turned(pixels, degrees, px)
    angle = np.deg2rad(degrees)
    for row in range(px):
        for column in range(px):
            across, down = (column + 0.5) * width / px - width / 2, (row + 0.5) * height / px - height / 2
            at_x = across * np.cos(angle) - down * np.sin(angle) + width / 2
            at_y = across * np.sin(angle) + down * np.cos(angle) + height / 2
            places = [int(np.floor(at)) for at in (at_y, at_x)]
            source = tuple(mirror_index(at, at + 1, n)[0] for at, n in zip(places, size, strict=True))
            assert np.abs(got[row, column] - pixels[source]).max() <= 14


def test_turned_and_mirrored_patches_beside_others():
    pixels = np.random.default_rng(6).integers(0, 256, (40, 60, 3), np.uint8)
    boxes = np.array([[5, 5, 35, 35], [0, 0, 60, 40], [0, 0, 60, 40]], float)
    turn, flip = np.array([0, 30, 30], np.float32), np.array([False, False, True])
    plain, left, mirrored = cut_patches(pixels, boxes, np.arange(3, dtype=np.uint8), "crops", 16, flip, turn=turn)
    assert np.array_equal(plain, squash_windows(pixels, boxes[:1], 16)[0])
    assert np.array_equal(mirrored, np.fliplr(left)) and np.array_equal(left, turned(pixels, 30, 16))


def test_a_long_picture_is_turned_within_little_memory():
    pixels = np.zeros((4, 20_000, 3), np.uint8)
    pixels[:, :10_000] = 200
    got = turned(pixels, 10, 8)
    assert got.shape == (8, 8, 3) and got[:, :3].min() > 150 and got[:, 5:].max() < 50
