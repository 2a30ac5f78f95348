"""How heat maps are drawn: the picture shines through where they are low, lines and frames lie where they should."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest

from pipeline.dataset.split import Annotation
from pipeline.views.figures import heat_maps as figures
from pipeline.views.figures.heat_maps import CONTOURS, common_scale, overlay, smooth
from pipeline.views.figures.style import MAP_COLORS
from pipeline.views.heat_maps import MOST_AUTO, N_AUTO, choose_classes
from pipeline.views.photos import Look

GREY = np.full((60, 90, 3), 128, np.uint8)


def luminance(pixels: np.ndarray) -> np.ndarray:
    return pixels @ np.array([0.299, 0.587, 0.114])


@pytest.fixture
def no_lines(monkeypatch):
    monkeypatch.setattr(figures, "CONTOURS", ())


def test_where_a_map_is_low_or_nothing_the_picture_is_seen(no_lines):
    picture = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    values = np.tile(np.linspace(-0.5, 1.0, 90), (60, 1))
    values[:, 80:] = np.nan
    drawn = overlay(picture, values, common_scale(values)).astype(int)
    bare = overlay(picture, np.full((60, 90), np.nan), common_scale(values)).astype(int)
    seen = (values <= 0) | np.isnan(values)
    assert np.array_equal(drawn[seen], bare[seen])
    # The picture's light and dark are kept there, and its details are seen even below the strongest colour.
    assert np.abs(luminance(bare) - luminance(picture.astype(int))).max() < 1.5
    highest = overlay(picture, np.ones((60, 90)), common_scale(np.ones(1)))
    assert np.corrcoef(luminance(highest).ravel(), luminance(picture).ravel())[0, 1] > 0.99


def test_the_higher_the_value_the_less_transparent(no_lines):
    values = np.tile(np.linspace(0, 1, 90), (60, 1))
    away = np.abs(overlay(GREY, values, common_scale(values)).astype(int) - 128).sum(2)
    assert away[0, 0] == 0 and away[0, -1] > 100
    assert np.corrcoef(away[0], values[0])[0, 1] > 0.9


def test_colours_rise_in_lightness_so_that_they_are_told_apart_in_grey():
    light = luminance(MAP_COLORS(np.linspace(0, 1, 64))[:, :3])
    assert (np.diff(light) > 0).all()


def test_lines_lie_at_their_shares_of_the_range():
    values = np.tile(np.linspace(0, 2.0, 89), (60, 1))
    row = luminance(overlay(GREY[:, :89], values, common_scale(values)))[30]
    for share in CONTOURS:
        at = round(share * 88)
        assert row[at - 1 : at + 2].max() > 240  # white ...
        assert row[at - 4 : at].min() < 90 and row[at + 1 : at + 5].min() < 90  # ... in dark edges
    higher = luminance(overlay(GREY[:, :89], 1 + values / 4, common_scale(np.ones(1) * 2)))[30]
    assert ((higher > 240) == (row > 240)).mean() > 0.95  # the same lines, on a higher level
    # Where nothing is known there is no line, and what is known has the lines of its own range.
    half = 1 + values / 2
    half[:, 61:] = np.nan
    found = luminance(overlay(GREY[:, :89], half, common_scale(np.ones(1) * 2)))[30]
    assert np.allclose(found[61:], 128) and found[29:32].max() > 200 and (found[:20] < 200).all()
    even = overlay(GREY, np.full((60, 90), 0.5), common_scale(np.ones(1)))
    assert len(np.unique(even.reshape(-1, 3), axis=0)) == 1  # no line where all is one value


def test_objects_are_framed_difficult_ones_dashed():
    nothing = np.full((60, 90), np.nan)
    boxes = np.array([[10, 10, 40, 50], [50, 10, 80, 50.0]])
    drawn = luminance(overlay(GREY, nothing, common_scale(np.ones(1)), boxes, np.array([False, True])))
    for (x0, y0, x1, y1), expected in zip(boxes.astype(int), (1.0, 0.5), strict=True):
        edges = [drawn[y0, x0:x1], drawn[y1 - 1, x0:x1], drawn[y0:y1, x0], drawn[y0:y1, x1 - 1]]
        share = np.concatenate(edges)
        assert (share < 50).mean() == pytest.approx(expected, abs=0.2)
        np.testing.assert_allclose(drawn[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6], 128)


def test_scales_begin_at_zero_or_where_nothing_is_above_it_at_the_lowest():
    ends = [(s.vmin, s.vmax) for s in map(common_scale, (np.array([-2.0, 0.5]), np.array([-3.0, -1.0]), np.zeros(2)))]
    assert ends == [(0.0, 0.5), (-3.0, -1.0), (0.0, 1.0)]
    scale = common_scale(np.array([0.1, np.nan]), highest=0.6)
    assert (scale.vmin, scale.vmax) == (0.0, 0.6)


def smooth_by_loops(values: np.ndarray, sigma: float) -> np.ndarray:
    """The weighted mean of the pixels that have a value, on a map whose border is repeated outwards."""
    height, width = values.shape
    radius = int(4 * sigma + 0.5)  # where scipy cuts the Gaussian
    out = np.full_like(values, np.nan)
    for y in range(height):
        for x in range(width):
            total = weight = 0.0
            for dy in range(-radius, radius + 1):
                for dx in range(-radius, radius + 1):
                    value = values[np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)]
                    if not np.isnan(value):
                        share = np.exp(-(dx**2 + dy**2) / (2 * sigma**2))
                        total, weight = total + share * value, weight + share
            if not np.isnan(values[y, x]):
                out[y, x] = total / weight
    return out


@pytest.mark.parametrize("missing", [False, True])
def test_smoothing_is_a_mean_over_the_pixels_that_have_a_value(missing):
    values = np.random.default_rng(0).random((9, 12))
    if missing:
        values[:4, 8:] = np.nan
    np.testing.assert_allclose(smooth(values[None], 1.3)[0], smooth_by_loops(values, 1.3), atol=1e-6)


def look() -> Look:
    of_dog, of_cat = [0, 0, 50, 40], [10, 10, 20, 20.0]
    objects = Annotation(None, np.array([of_dog, of_cat]), np.array([1, 0]), np.array([True, False]))
    boxes = np.array([[0, 0, 60, 60], [40, 20, 100, 80.0]])
    scores = np.array([[0.2, 0.8], [0.6, 0.4]], np.float32)
    return Look("a", np.zeros((40, 50, 3), np.uint8), (100, 80), boxes, ("cat", "dog"), scores, "softmax", objects)


def test_boxes_and_smoothing_are_of_the_size_that_is_shown():
    whole, small = look(), look().shrunk(25)
    box_xyxy, difficult = whole.boxes_of(1)
    assert box_xyxy.tolist() == [[0, 0, 25, 20]] and difficult.tolist() == [True]
    assert small.boxes_of(0)[0].tolist() == [[2.5, 2.5, 5, 5]]
    drawn = whole.smooth_maps(np.array([0]))[0]
    assert (
        np.nanmax(np.abs(np.diff(drawn, axis=1))) < np.nanmax(np.abs(np.diff(whole.maps(np.array([0]))[0], axis=1))) / 3
    )


def test_few_maps_are_drawn_with_those_of_classes_that_are_there():
    scores = np.linspace(1, 0.2, 12)
    classes = tuple("abcdefghijkl")
    assert choose_classes(classes, [], scores).tolist() == list(range(N_AUTO))
    shown = np.zeros(12, bool)
    shown[[1, 7]] = True
    assert choose_classes(classes, [], scores, shown).tolist() == [0, 1, 2, 7]
    assert len(choose_classes(classes, [], scores, np.ones(12, bool))) == MOST_AUTO
    # Classes that are nowhere have no map, unless they are known to be there.
    low = np.where(np.arange(12) == 0, 0.9, 0.04)
    assert choose_classes(classes, [], low).tolist() == [0] and choose_classes(classes, [], low, shown).tolist() == [
        0,
        1,
        7,
    ]
    assert choose_classes(classes, [], -scores).tolist() == [11, 10, 9]  # log-odds that all say no
    assert choose_classes(classes, ["l", "b"], scores, shown).tolist() == [11, 1]


def test_the_colour_bar_shows_colours_as_they_lie_over_grey():
    scale = common_scale(np.ones(1))
    bar = figures.bar_colors()(np.linspace(0, 1, 11))[:, :3]
    for share, color in zip(np.linspace(0, 1, 11), bar, strict=True):
        drawn = overlay(GREY, np.full((60, 90), share), scale)[0, 0] / 255
        np.testing.assert_allclose(drawn, color, atol=0.01)
    assert mpl.colormaps["plasma"].name == MAP_COLORS.name
