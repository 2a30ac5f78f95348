"""The grid: counts that the documents state, and what must hold of any picture."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.io.errors import BadPictureError
from pipeline.patches.grid import count_along, grid_windows
from pipeline.patches.settings import GridSettings

LOOSE = GridSettings(max_patches=10**6, min_side_px=0.5)


@pytest.mark.parametrize(
    ("width", "height", "overlap", "expect"),
    [
        pytest.param(500, 375, 0.65, 488, id="landscape photo"),
        pytest.param(375, 500, 0.65, 488, id="portrait photo"),
        pytest.param(500, 375, 0.5, 275, id="half overlap"),
        # side 100, 77, 62, 50, 42, 36, 31, 28, 25: 1, 2, 3, 4, 5, 7, 8, 9, 10 windows along each side.
        pytest.param(100, 100, 0.65, 1 + 4 + 9 + 16 + 25 + 49 + 64 + 81 + 100, id="square"),
    ],
)
def test_counts(width, height, overlap, expect):
    boxes, scale = grid_windows(width, height, GridSettings(overlap=overlap))

    assert boxes.shape == (expect, 4) and boxes.dtype == np.float64
    assert scale.shape == (expect,) and scale.dtype == np.uint8


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        pytest.param(500, 50, "500 x 50 pixels give 4102 patches, at most 2000 are allowed", id="panorama"),
        pytest.param(50, 500, "50 x 500 pixels give 4102 patches, at most 2000 are allowed", id="upright panorama"),
        pytest.param(31, 31, r"31 x 31 pixels: the smallest window is 7\.8 px, at least 8 are needed", id="tiny"),
        pytest.param(1, 1000, r"the smallest window is 0\.2 px", id="one column"),
    ],
)
def test_pictures_without_a_sensible_grid_are_refused(width, height, message):
    with pytest.raises(BadPictureError, match=message):
        grid_windows(width, height, GridSettings())


def test_the_limits_themselves_are_allowed():
    assert len(grid_windows(32, 32, GridSettings())[0])  # smallest window is exactly 8 px
    assert len(grid_windows(500, 375, GridSettings(max_patches=488))[0]) == 488
    with pytest.raises(BadPictureError, match="at most 487"):
        grid_windows(500, 375, GridSettings(max_patches=487))


def test_order_is_scale_row_column():
    # 120 x 100: one window of 100 and one of 100 shifted by 20; then 50 px at steps of at most 25.
    boxes, scale = grid_windows(120, 100, GridSettings(scales=(1.0, 2.0), overlap=0.5))

    assert scale.tolist() == [0] * 2 + [1] * 12
    assert boxes[:2].tolist() == [[0, 0, 100, 100], [20, 0, 120, 100]]
    left, top = boxes[2:, 0].reshape(3, 4), boxes[2:, 1].reshape(3, 4)
    np.testing.assert_allclose(left, [[0, 70 / 3, 140 / 3, 70]] * 3)
    np.testing.assert_allclose(top, [[0] * 4, [25] * 4, [50] * 4])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("overlap", [0.5, 0.65, 0.7, 0.9])
@pytest.mark.parametrize("window", [10.0, 33.3, 100 / 3, 375 / 1.3])
def test_an_exact_fit_gains_no_window(n, overlap, window):
    # n windows whose neighbours overlap by exactly `overlap` cover this side.
    side = window + (n - 1) * (1 - overlap) * window

    assert count_along(side, window, overlap) == n
    assert count_along(side * 1.001, window, overlap) == n + 1


SIDES = st.integers(8, 700)
OVERLAPS = st.floats(0, 0.8)


@given(SIDES, SIDES, OVERLAPS)
def test_windows_are_squares_that_cover_the_picture_from_edge_to_edge(width, height, overlap):
    grid = LOOSE.model_copy(update={"overlap": overlap, "scales": (1.0, 1.6, 2.8)})
    assume(max(width, height) < 8 * min(width, height))

    boxes, scale = grid_windows(width, height, grid)

    assert (boxes >= 0).all() and (boxes[:, 2] <= width + 1e-9).all() and (boxes[:, 3] <= height + 1e-9).all()
    sides = min(width, height) / np.array(grid.scales)[scale]
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], sides, rtol=1e-9)
    np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], sides, rtol=1e-9)
    for index, side in enumerate(min(width, height) / np.array(grid.scales)):
        here = boxes[scale == index]
        for axis, length in ((0, width), (1, height)):
            starts = np.unique(here[:, axis])
            assert starts[0] == 0 and starts[-1] + side == pytest.approx(length)
            if len(starts) > 1:
                steps = np.diff(starts)
                assert steps.max() - steps.min() < 1e-6  # evenly spaced
                assert side - steps.max() >= overlap * side - 1e-6 * side
                # Not more windows than needed: one fewer would overlap too little.
                if len(starts) > 2:
                    assert side - (length - side) / (len(starts) - 2) < overlap * side + 1e-6 * side


def windows_in_loops(width, height, scales, overlap):
    """The formula of the documents, one window at a time."""
    windows = []
    for index, factor in enumerate(scales):
        side = min(width, height) / factor
        counts = []
        for length in (width, height):
            counts.append(math.ceil((length - side) / ((1 - overlap) * side) - 1e-9) + 1)
        for row in range(counts[1]):
            for column in range(counts[0]):
                x0 = 0.0 if counts[0] == 1 else (width - side) * column / (counts[0] - 1)
                y0 = 0.0 if counts[1] == 1 else (height - side) * row / (counts[1] - 1)
                windows.append((x0, y0, x0 + side, y0 + side, index))
    return np.array(windows)


@given(st.integers(20, 600), st.integers(20, 600), st.sampled_from([0.0, 0.3, 0.5, 0.65]))
def test_same_as_loops(width, height, overlap):
    assume(max(width, height) < 6 * min(width, height))
    grid = LOOSE.model_copy(update={"overlap": overlap})

    boxes, scale = grid_windows(width, height, grid)

    expected = windows_in_loops(width, height, grid.scales, overlap)
    np.testing.assert_allclose(boxes, expected[:, :4], atol=1e-9)
    assert scale.tolist() == expected[:, 4].tolist()
