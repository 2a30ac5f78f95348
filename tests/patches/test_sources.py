"""Sources of patches: what each looks at, and that digests of the first two have not moved."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tables import TableOfRows, all_overlaps, all_rows

from pipeline.io.errors import BadPictureError
from pipeline.patches.build import make_table
from pipeline.patches.grid import grid_windows
from pipeline.patches.labels import Overlap
from pipeline.patches.sampling import hold_out_pictures
from pipeline.patches.settings import BoxSettings, CropSettings, GridSettings, SourceSettings
from pipeline.patches.sources import count_windows, crop_windows, plan_windows, square_window
from pipeline.patches.table_file import read_table, write_table

GRID = GridSettings(scales=(1.0, 2.0), overlap=0.5)


def planned(source: str, width: int = 96, height: int = 64, sample=None, **settings):
    return plan_windows(width, height, SourceSettings(source=source, grid=GRID, **settings), sample)


def test_the_grid_is_the_grid():
    boxes, scale = grid_windows(96, 64, GRID)
    got = planned("grid")

    assert np.array_equal(got.box_xyxy, boxes) and np.array_equal(got.scale, scale) and got.flip is None


def test_the_whole_picture_is_one_window():
    got = planned("whole")

    assert got.box_xyxy.tolist() == [[0, 0, 96, 64]] and got.scale.tolist() == [0] and got.flip is None


def test_crops_are_the_picture_its_centre_and_its_corners_then_all_of_them_mirrored():
    got = planned("crops", crops=CropSettings(shares=(0.5,)))

    expected = [[0, 0, 96, 64], [32, 16, 64, 48], [0, 0, 32, 32], [64, 0, 96, 32], [0, 32, 32, 64], [64, 32, 96, 64]]
    assert got.box_xyxy.tolist() == expected * 2
    assert got.flip.tolist() == [False] * 6 + [True] * 6
    assert got.scale.tolist() == list(range(12))


def test_turned_pictures_come_after_the_crops_and_all_of_them_mirrored():
    got = planned("crops", crops=CropSettings(shares=(0.5,), turns=(-30, 30)))

    assert got.box_xyxy[6:8].tolist() == [[0, 0, 96, 64]] * 2 and len(got.scale) == 16
    assert got.turn.tolist() == ([0] * 6 + [-30, 30]) * 2
    assert got.flip.tolist() == [False] * 8 + [True] * 8
    alone = planned("crops", crops=CropSettings(whole=False, shares=(), turns=(10,), flips=False))
    assert (alone.box_xyxy.tolist(), alone.turn.tolist(), alone.flip.tolist()) == ([[0, 0, 96, 64]], [10], [False])
    assert planned("crops").turn is None and "turns" not in CropSettings().model_dump()


@pytest.mark.parametrize(
    ("crops", "problem"),
    [
        ({"turns": [0]}, "not be 0"),
        ({"turns": [10, 10]}, "differ"),
        ({"turns": [-180]}, "between -180 and 180"),
        ({"turns": [1 + i for i in range(25)], "shares": [0.05 + i / 100 for i in range(25)]}, "make 302 crops"),
    ],
)
def test_turns_that_are_refused(crops, problem):
    with pytest.raises(ValueError, match=problem):
        CropSettings(**crops)


@pytest.mark.parametrize(
    ("crops", "n"),
    [
        pytest.param({}, 12, id="defaults"),
        pytest.param({"flips": False}, 6, id="not mirrored"),
        pytest.param({"whole": False, "flips": False}, 5, id="five squares"),
        pytest.param({"shares": [0.5, 0.75, 1.0], "flips": False}, 16, id="three sizes"),
        pytest.param({"shares": []}, 2, id="the picture and its mirror image"),
        pytest.param({"shares": [0.05 + i / 100 for i in range(25)]}, 252, id="most"),
    ],
)
def test_how_many_crops_there_are(crops, n):
    settings = SourceSettings(source="crops", grid=GridSettings(min_side_px=1), crops=crops)

    assert count_windows(500, 375, settings) == n == len(plan_windows(500, 375, settings).scale)


@given(
    width=st.integers(20, 400),
    height=st.integers(20, 400),
    shares=st.lists(st.floats(0.05, 1), max_size=4, unique=True).map(tuple),
)
def test_crops_lie_in_the_picture_and_are_squares(width, height, shares):
    boxes = crop_windows(width, height, CropSettings(shares=shares))[1:]

    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= np.array([width, height]) + 1e-9).all()
    sides = boxes[:, 2:] - boxes[:, :2]
    assert np.allclose(sides[:, 0], sides[:, 1])
    assert np.allclose(sides[:, 0], np.repeat(shares, 5) * min(width, height))


def test_a_picture_with_tiny_crops_is_refused():
    with pytest.raises(BadPictureError, match=r"100 x 10 pixels: the smallest crop is 5\.0 px, at least 8"):
        planned("crops", 100, 10, crops=CropSettings(shares=(0.5,)))


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        pytest.param([10, 10, 20, 40], 1, [0, 10, 30, 40], id="upright"),
        pytest.param([10, 10, 40, 20], 1, [10, 0, 40, 30], id="lying"),
        pytest.param([10, 10, 20, 30], 2, [-5, 0, 35, 40], id="margin"),
        pytest.param([0, 0, 4, 100], 1, [-48, 0, 52, 100], id="leaves the picture"),
    ],
)
def test_a_square_is_centred_on_its_box(box, margin, expected):
    assert square_window(np.array(box), margin).tolist() == expected


def test_boxes_are_one_square_a_person_and_its_mirror_image_if_asked_for():
    box = np.array([10, 10, 20, 40])

    assert planned("boxes", sample=box, boxes=BoxSettings(margin=1)).box_xyxy.tolist() == [[0, 10, 30, 40]]
    both = planned("boxes", sample=box, boxes=BoxSettings(margin=1, flips=True))
    assert both.box_xyxy.tolist() == [[0, 10, 30, 40]] * 2 and both.flip.tolist() == [False, True]
    with pytest.raises(BadPictureError, match="no box: source boxes needs samples that are persons"):
        planned("boxes")


# ---- in the table ------------------------------------------------------------------------------------


def fixed_table(**changes) -> TableOfRows:
    values = {
        "dataset": "fixed",
        "split": "train",
        "classes": ("cat",),
        "source": "grid",
        "grid": GridSettings(scales=(1.0, 2.0)),
        "picture": np.array([0, 0, 1], np.int32),
        "box_xyxy": np.arange(12, dtype=np.float32).reshape(3, 4),
        "scale": np.array([0, 1, 0], np.uint8),
        "overlap": Overlap(
            np.zeros(3, np.uint8),
            np.zeros(3, np.uint8),
            np.full(3, -1, np.int16),
            np.zeros(3, bool),
            np.zeros(0, np.int32),
            np.zeros(0, np.int16),
            np.zeros(0, bool),
        ),
        "ids": ("a", "b"),
        "size_wh": np.array([[64, 48], [50, 50]], np.int32),
        "apply_exif": np.zeros(2, bool),
        "picture_sha256": ("0", "1"),
        "picture_labels": np.zeros((2, 1), np.int8),
        "skipped": (),
        "annotation_digest": "",
    }
    return TableOfRows(**{**values, **changes})


def test_digests_that_stores_are_joined_on_have_not_moved():
    # As they were when the first stores were made; another digest here would orphan all of them.
    assert fixed_table().compute_rows_digest() == "552fe711cbba6e796fbdd6fd1b0e0a45890f5f81e3da44126cdd5976ed2c299b"
    whole = fixed_table(source="whole")
    assert whole.compute_rows_digest() == "fdff59b2ec223e90d96c5e6f8805c6743e5d01173a597a9c39038ddb08af0928"


def test_samples_of_one_file_are_held_out_together():
    for share in (0.2, 0.5, 0.8):
        assert len(set(hold_out_pictures(fixed_table(picture_sha256=("0", "0")).picture_sha256, share).tolist())) == 1


def test_flips_are_in_the_digest_of_the_rows():
    flips = [None, np.zeros(3, bool), np.array([False, True, False]), np.array([True, False, False])]

    assert len({fixed_table(source="crops", flip=flip).compute_rows_digest() for flip in flips}) == 4


def test_a_table_of_crops_survives_its_file(voc, tmp_path):
    crops = CropSettings(shares=(0.5,))
    table = make_table(voc.read(), SourceSettings(source="crops", grid=GRID, crops=crops))
    write_table(table, tmp_path / "crops.h5")

    again = read_table(tmp_path / "crops.h5")

    assert again.crops == crops and again.n_rows == 12 * 6 and all_rows(again).flip.sum() == 36
    assert np.array_equal(all_rows(again).flip, all_rows(table).flip) and again.rows_digest == table.rows_digest
    assert again.pictures_digest() == make_table(voc.read(), SourceSettings(grid=GRID)).pictures_digest()


def test_a_mirrored_crop_has_the_label_of_its_window(voc):
    voc.annotate("p0", [("dog", (1, 1, 32, 32), 0)])  # fills the top left crop alone
    table = make_table(voc.read(), SourceSettings(source="crops", grid=GRID, crops=CropSettings(shares=(0.5,))))

    overlap = all_overlaps(table)
    filled = np.flatnonzero(overlap.n_filling[:12])
    assert filled.tolist() == [2, 8] and overlap.filling_class[filled].tolist() == [1, 1]
