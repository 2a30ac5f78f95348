"""Boxes from maps against a flood fill, CorLoc and AP of drawn cases, whatever the parts that scores arrive in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.split import Annotation
from pipeline.scoring.heat_maps import CoverageGrid
from pipeline.scoring.localisation import Boxes, MapBoxes, boxes_of_maps, measure_boxes, whole_pictures


def slow_boxes(grid, one_map, share):
    """Flood fill, cell by cell: (box, score) of each group."""
    lowest, highest = np.nanmin(one_map), np.nanmax(one_map)
    if highest - lowest <= 1e-6 * max(abs(lowest), abs(highest)):
        return set()
    left = {
        (y, x) for y, x in np.ndindex(one_map.shape) if one_map[y, x] >= lowest + share * (highest - lowest)
    }  # NaN is never larger
    found = set()
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            group.add((y, x))
            for cell in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if cell in left:
                    left.remove(cell)
                    edge.append(cell)
        ys, xs = zip(*group, strict=True)
        box = (grid.x_edges[min(xs)], grid.y_edges[min(ys)], grid.x_edges[max(xs) + 1], grid.y_edges[max(ys) + 1])
        found.add((*box, max(one_map[cell] for cell in group)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.8]))
def test_boxes_as_by_flood_fill(seed, share):
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (6, 2))
    grid = CoverageGrid(np.concatenate([corner, corner + rng.integers(1, 15, (6, 2))], axis=1), (30, 25))
    maps = rng.integers(-3, 4, (3, len(grid.y_edges) - 1, len(grid.x_edges) - 1)).astype(float)
    maps[0] = 2.0  # even
    maps[1][rng.random(maps[1].shape) < 0.3] = np.nan
    maps[1, 0, 0] = 9.0

    which, box_xyxy, score = boxes_of_maps(grid, maps, share)

    assert not (which == 0).any() and (np.diff(which) >= 0).all()
    for index in (1, 2):
        own = which == index
        got = {(*box, value) for box, value in zip(box_xyxy[own].tolist(), score[own].tolist(), strict=True)}
        assert got == slow_boxes(grid, maps[index], share) and len(got) == own.sum()
        assert (np.diff(score[own]) <= 0).all()


def annotation(*objects: tuple[int, list[int], bool]) -> Annotation:
    return Annotation(
        None,
        np.array([box for _, box, _ in objects], float).reshape(-1, 4),
        np.array([c for c, _, _ in objects], np.int64),
        np.array([d for *_, d in objects], bool),
    )


def boxes_of(*rows: tuple[int, int, list[int], float]) -> Boxes:
    picture, column, box, score = zip(*rows, strict=True)
    return Boxes(np.array(picture), np.array(column), np.array(box, float), np.array(score))


def test_corloc_takes_the_best_box_alone_and_ap_all_of_them():
    annotations = [
        annotation((0, [0, 0, 10, 10], False)),
        annotation((0, [0, 0, 10, 10], False), (1, [20, 20, 30, 30], False)),
        annotation((1, [0, 0, 10, 10], True)),
    ]
    labels = np.array([[1, -1], [1, 1], [-1, 0]], np.int8)
    boxes = boxes_of(
        (0, 0, [0, 0, 10, 10], 0.9),  # right
        (1, 0, [50, 50, 60, 60], 0.8),  # wrong, and the best of its picture
        (1, 0, [0, 0, 10, 10], 0.4),  # right, but second
        (1, 1, [20, 20, 30, 30], 0.3),  # right
        (2, 0, [0, 0, 10, 10], 0.2),  # no such object
        (2, 1, [0, 0, 10, 10], 0.95),  # of a difficult object
    )

    found = measure_boxes(boxes, annotations, labels, "voc12")

    assert found.judged.tolist() == [1, -1, 1, 1, -1, 0]
    assert found.corloc.tolist() == [0.5, 1.0]
    assert found.ap.tolist() == [pytest.approx(0.5 * 1 + 0.5 * 2 / 3), 1.0]


def test_the_mean_leaves_out_classes_without_objects_and_columns_of_zeros():
    annotations = [annotation((0, [0, 0, 10, 10], False), (1, [0, 0, 10, 10], False))]
    labels = np.array([[1, 0, -1]], np.int8)

    found = measure_boxes(whole_pictures(np.array([[10, 10]]), labels), annotations, labels, "voc12")

    np.testing.assert_array_equal(found.corloc, [1, np.nan, np.nan])
    np.testing.assert_array_equal(found.ap, [1, np.nan, np.nan])


def test_of_equal_scores_the_largest_box_is_the_best():
    annotations = [annotation((0, [0, 0, 10, 10], False))]
    small, large = (0, 0, [0, 0, 2, 2], 0.5), (0, 0, [0, 0, 9, 9], 0.5)

    for rows in ((small, large), (large, small)):
        assert measure_boxes(boxes_of(*rows), annotations, np.array([[1]], np.int8), "voc12").corloc.tolist() == [1]


def test_boxes_do_not_depend_on_the_parts_that_scores_arrive_in(val, heads):
    table, scores = val.table, heads["fca"].patch_scores(val.rows)
    picture = table.picture_of(slice(0, table.n_rows))
    at_once, by_part = MapBoxes(table, (0.4, 0.7)), MapBoxes(table, (0.4, 0.7))
    at_once.add(scores, picture)
    for start in range(0, len(scores), 7):
        by_part.add(scores[start : start + 7], picture[start : start + 7])

    expected, got = at_once.result(), by_part.result()

    assert set(got) == {0.4, 0.7}
    for share, boxes in expected.items():
        for a, b in zip(boxes, got[share], strict=True):
            np.testing.assert_array_equal(a, b)
