"""Heat maps and their highest points, against loops over pixels; and what of it is kept and measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.split import Annotation
from pipeline.patches.grid import grid_windows
from pipeline.patches.settings import GridSettings
from pipeline.scoring.aggregation import Aggregation
from pipeline.scoring.evaluation import Evaluation
from pipeline.scoring.heat_maps import CoverageGrid, Peaks, heat_maps, point_at
from pipeline.scoring.score import score_split
from pipeline.scoring.scores_file import load_scores, save_scores

GRID = GridSettings(scales=(1.0, 1.6, 2.5))


def maps_by_loops(box_xyxy: np.ndarray, scores: np.ndarray, width: int, height: int) -> np.ndarray:
    maps = np.full((scores.shape[1], height, width), np.nan)
    for y in range(height):
        for x in range(width):
            inside = [x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in box_xyxy]
            if any(inside):
                maps[:, y, x] = scores[inside].mean(0)
    return maps


@settings(max_examples=40, deadline=None)
@given(st.integers(9, 60), st.integers(9, 60), st.integers(0, 99))
def test_every_pixel_has_the_mean_of_the_patches_over_it(width, height, seed):
    boxes, _ = grid_windows(width, height, GridSettings(scales=(1.0, 1.6, 2.5), min_side_px=1))
    scores = np.random.default_rng(seed).random((len(boxes), 3))
    maps = heat_maps(boxes, scores, (width, height), smoothed=False)
    assert (maps.dtype, maps.shape) == (np.float32, (3, height, width))
    np.testing.assert_allclose(maps, maps_by_loops(boxes, scores, width, height), atol=1e-6)


def test_patches_that_leave_the_picture_and_points_without_patch():
    boxes = np.array([[-5, -5, 4, 4], [6, 2, 30, 8.4]])
    scores = np.array([[0.25], [0.5]])
    maps = heat_maps(boxes, scores, (10, 8), smoothed=False)
    np.testing.assert_allclose(maps, maps_by_loops(boxes, scores, 10, 8))
    assert np.isnan(maps[0, 7, 0]) and np.nanmax(maps) == 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 99))
def test_a_steadied_mean_lies_between_the_mean_and_that_of_the_picture(width, height, seed):
    boxes, _ = grid_windows(width, height, GRID)
    scores = np.random.default_rng(seed).random((len(boxes), 2))
    cover = CoverageGrid(boxes, (width, height))
    plain, steady, overall = cover.mean(scores), cover.smoothed_mean(scores), scores.mean(0)[:, None, None]
    n, weight = cover.n_patches, np.median(cover.n_patches)
    np.testing.assert_allclose(steady, (n * plain + weight * overall) / (n + weight))
    assert (np.abs(steady - overall) <= np.abs(plain - overall) + 1e-12).all()


def test_one_high_patch_at_an_edge_is_no_peak():
    # Many patches see a class in the middle, and the few that reach the corner see it by chance.
    boxes, _ = grid_windows(200, 200, GridSettings())
    middle = ((boxes[:, 0] < 100) & (boxes[:, 2] > 100) & (boxes[:, 1] < 100) & (boxes[:, 3] > 100)).astype(float)
    corner = ((boxes[:, 0] == 0) & (boxes[:, 1] == 0)).astype(float)
    scores = np.maximum(0.6 * middle, 0.9 * corner)[:, None]
    cover = CoverageGrid(boxes, (200, 200))
    assert (cover.peak(cover.mean(scores)) < 20).all()
    assert (np.abs(cover.peak(cover.smoothed_mean(scores)) - 100) < 40).all()


def test_equal_scores_give_an_even_map():
    boxes, _ = grid_windows(500, 375, GridSettings())
    maps = heat_maps(boxes, np.full((len(boxes), 1), 0.3), (500, 375))
    assert (maps == np.float32(0.3)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.sampled_from([0.3, -1e-7, 0.0, 1 / 3, 1e6]))
def test_a_level_map_is_highest_in_the_centre_of_the_picture(width, height, score):
    boxes, _ = grid_windows(width, height, GRID)
    varied = np.random.default_rng(0).random(len(boxes))
    cover = CoverageGrid(boxes, (width, height))
    for cells in (cover.mean, cover.smoothed_mean):
        level, alone = cells(np.stack([np.full(len(boxes), score), varied], axis=1)), cells(varied[:, None])
        assert (level[0] == score).all()
        np.testing.assert_allclose(level[1], alone[0])
        assert cover.peak(level)[0].tolist() == [width / 2, height / 2]


def test_a_level_map_that_does_not_reach_the_centre_is_highest_where_it_is():
    cover = CoverageGrid(np.array([[0, 0, 10, 10], [0, 0, 10, 10]]), (100, 80))
    assert cover.peak(cover.smoothed_mean(np.array([[0.5], [0.5]]))).tolist() == [[5, 5]]


def test_pointing_of_a_head_that_says_nothing_is_that_of_the_middle(mapped):
    """By rounding alone it was that of some corner, another one for each score."""
    peaks = Peaks(mapped, range(len(mapped.ids)))
    peaks.add(np.full((mapped.n_rows, 3), 1 / 3, np.float32), mapped.picture)
    assert set(map(tuple, peaks.result()[mapped.picture_labels == 1].tolist())) == {(50.0, 40.0)}


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 99))
def test_the_peak_is_where_the_map_is_highest(width, height, seed):
    boxes, _ = grid_windows(width, height, GRID)
    scores = np.random.default_rng(seed).random((len(boxes), 2))
    cover = CoverageGrid(boxes, (width, height))
    cells = cover.mean(scores)
    for (x, y), values, column in zip(cover.peak(cells), cells, scores.T, strict=True):
        over = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
        assert np.isclose(column[over].mean(), values.max())


@pytest.fixture
def mapped(make):
    """A table whose pictures of 100 x 80 px have the patches of a grid."""
    table = make.table("val", 9)
    boxes, scale = grid_windows(100, 80, GRID)
    n = len(boxes)
    picture = np.repeat(np.arange(9, dtype=np.int32), n)
    return replace(
        table, picture=picture, box_xyxy=np.tile(boxes, (9, 1)).astype(np.float32), size_wh=np.tile([100, 80], (9, 1))
    )


@pytest.mark.parametrize("step", [1, 7, 50, 10_000])
def test_peaks_do_not_hang_on_how_patches_come(mapped, step):
    scores = np.random.default_rng(0).random((mapped.n_rows, 3)).astype(np.float32)
    peaks = Peaks(mapped, range(len(mapped.ids)))
    for start in range(0, mapped.n_rows, step):
        peaks.add(scores[start : start + step], mapped.picture[start : start + step])
    found = peaks.result()

    shown = mapped.picture_labels == 1
    assert found.shape == (9, 3, 2) and (np.isnan(found).all(2) == ~shown).all()
    for index, column in zip(*np.nonzero(shown), strict=True):
        rows = mapped.picture == index
        values = heat_maps(mapped.box_xyxy[rows], scores[rows][:, [column]], (100, 80))[0]
        x, y = found[index, column]
        assert values[int(y), int(x)] == pytest.approx(np.nanmax(values), abs=1e-6)


def test_pointing_counts_pictures_whose_peak_is_in_a_box():
    nothing = Annotation(None, np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    two_cats = Annotation(
        None, np.array([[0, 0, 10, 10], [50, 50, 60, 60.0]]), np.array([0, 0]), np.array([False, True])
    )
    dog = Annotation(None, np.array([[0, 0, 10, 10.0]]), np.array([1]), np.array([False]))
    labels = np.array([[1, -1, -1], [1, -1, -1], [-1, 1, -1], [-1, 1, -1], [1, -1, -1]], np.int8)
    peaks = np.full((5, 3, 2), np.nan)
    peaks[0, 0], peaks[1, 0], peaks[4, 0] = (55, 59), (30, 5), (9.9, 0)  # in the difficult one, in none, in the first
    peaks[2, 1], peaks[3, 1] = (10, 5), (0, 0)  # right edge: outside; upper left corner: inside

    share = point_at(peaks, labels, [two_cats, two_cats, dog, dog, two_cats])

    np.testing.assert_allclose(share, [2 / 3, 0.5, np.nan])
    assert np.isnan(point_at(np.full((1, 3, 2), np.nan), labels[:1] * 0, [nothing])).all()


def test_scores_keep_peaks_and_results_say_where_maps_point(val, heads, manifest, tmp_path):
    (scores,) = score_split(val.store, val.table, [heads["fca"]], (5.0,))
    save_scores(scores, tmp_path / "scores.h5")
    assert np.array_equal(load_scores(tmp_path / "scores.h5").peak_xy, scores.peak_xy, equal_nan=True)

    # All patches of these pictures are one square: the map is even in it, and its middle is at (8, 8).
    assert set(scores.peak_xy[val.table.picture_labels == 1].ravel()) == {8.0}
    columns = np.arange(len(val.table.ids)) % 3
    boxes = {0: [0, 0, 9, 9], 1: [9, 9, 20, 20], 2: [0, 0, 100, 100]}
    annotations = {
        i: Annotation(None, np.array([boxes[c]], float), np.array([c]), np.array([False]))
        for i, c in zip(val.table.ids, columns.tolist(), strict=True)
    }
    evaluation = Evaluation(scores, val.table, manifest, Aggregation("power", 5.0), "made", {}, "")
    pointing = evaluation.result(annotations).pointing
    assert pointing["share"] == {"cat": 1.0, "dog": 0.0, "fish": 1.0}
    assert pointing["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert pointing["middle"] == pytest.approx(1 / 3, abs=1e-6)  # (50, 50), in the boxes of fish alone
    assert evaluation.result().pointing is None


def test_splits_without_boxes_or_labels_have_no_peaks(val, heads, make, tmp_path):
    unlabelled = replace(val.table, picture_labels=np.zeros((len(val.table.ids), 0), np.int8))
    for table in (replace(val.table, has_boxes=False), unlabelled):
        (scores,) = score_split(val.store, table, [heads["fca"]], (5.0,))
        assert scores.peak_xy is None
        save_scores(scores, tmp_path / "scores.h5")
        assert load_scores(tmp_path / "scores.h5").peak_xy is None
