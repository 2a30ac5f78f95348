"""The patch table: made from real pictures, bad ones found, digests, the file, and what makes it stale."""

import os
import re
from dataclasses import fields, replace

import h5py
import numpy as np
import pytest
from PIL import Image
from support.tables import TableOfRows, all_overlaps, all_rows

from pipeline.io.checksummed import USER_BLOCK, checksum_hdf5
from pipeline.io.digests import DigestMemory, sha256_file
from pipeline.io.errors import DatasetError, StoreError
from pipeline.patches.build import make_table
from pipeline.patches.grid import grid_windows
from pipeline.patches.rows import Objects
from pipeline.patches.settings import GridSettings, LabelSettings, SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import (
    OBJECT_COLUMNS,
    PICTURE_COLUMNS,
    read_table,
    verify_table,
    why_stale,
    write_table,
)

GRID = GridSettings(scales=(1.0, 2.0), overlap=0.5)  # on 96 x 64: 2 windows of 64 px and 5 x 3 of 32 px
SOURCES = SourceSettings(grid=GRID)
FILLS, TOUCHES = LabelSettings(), LabelSettings(single_object="touches")


def assert_same(table: PatchTable | Objects, other: PatchTable | Objects) -> None:
    for field in fields(table):
        one, two = getattr(table, field.name), getattr(other, field.name)
        if isinstance(one, Objects):
            assert_same(one, two)
        elif isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two, err_msg=field.name)
            assert one.dtype == two.dtype, field.name
        else:
            assert one == two, field.name


# ---- making ----------------------------------------------------------------------------------------


def test_rows_are_ordered_by_picture_then_as_the_grid(voc):
    voc.add("large", [], (128, 96))

    table = make_table(voc.read(), SOURCES, workers=3)

    sizes = [(96, 64)] * 6 + [(128, 96)]
    windows = [grid_windows(*size, GRID) for size in sizes]
    assert table.ids == ("p0", "p1", "p2", "p3", "p4", "p5", "large")
    assert table.size_wh.tolist() == [list(s) for s in sizes]
    rows = all_rows(table)
    np.testing.assert_array_equal(rows.box_xyxy, np.concatenate([w[0] for w in windows]).astype(np.float32))
    np.testing.assert_array_equal(rows.scale, np.concatenate([w[1] for w in windows]))
    assert table.first_row.tolist() == np.cumsum([0] + [len(w[0]) for w in windows]).tolist()
    assert rows.picture.tolist() == [i for i, w in enumerate(windows) for _ in w[0]]
    assert table.n_rows == 6 * 17 + windows[-1][0].shape[0]
    assert table.picture_sha256 == tuple(sha256_file(voc.picture(i)) for i in table.ids)
    assert table.picture_labels.tolist()[:2] == [[-1, 1], [1, -1]]
    assert table.labelled and not table.skipped


def test_labels_of_a_table(voc):
    # Windows of 64 px at x 0 and 32: the cat (8, 8)..(72, 60) has 56/64 of itself in the first and
    # 40/64 in the second. Of the 32 px windows none holds 60 % of it; those at x 64 touch it.
    table = make_table(voc.read(), SOURCES)

    labels = table.labels(FILLS).reshape(6, 17)

    assert labels[:, :2].tolist() == [[1, 1], [0, 0]] * 3
    assert set(labels[:, 2:].ravel().tolist()) == {-2}


def test_objects_that_fill_are_listed_by_row(voc):
    voc.annotate("p0", [])
    voc.annotate("p2", [("cat", (9, 9, 72, 60), 1), ("dog", (10, 10, 72, 60), 0)])

    table = make_table(voc.read(), SOURCES)

    # The two windows of 64 px of each picture; see above.
    large = {picture: [17 * picture, 17 * picture + 1] for picture in range(6)}
    overlap = all_overlaps(table)
    assert overlap.fill_row.tolist() == large[1] + sorted(2 * large[2]) + large[3] + large[4] + large[5]
    assert overlap.fill_class.tolist() == [0, 0] + [0, 1, 0, 1] + [0, 0] + [1, 1] + [0, 0]
    assert overlap.fill_difficult.tolist() == [False] * 2 + [True, False] * 2 + [False] * 6
    targets = table.class_targets(FILLS, range(6))
    assert targets.matrix(np.array(large[1] + large[2]), 2).tolist() == [[1, -1], [1, -1], [0, 1], [0, 1]]


def test_no_object_fills_anything(voc, tmp_path):
    for name in voc.ids:
        voc.annotate(name, [])
    table = make_table(voc.read(), SOURCES)
    write_table(table, tmp_path / "t.h5")

    overlap = all_overlaps(table)
    assert overlap.fill_row.shape == overlap.fill_class.shape == overlap.fill_difficult.shape == (0,)
    assert_same(read_table(tmp_path / "t.h5"), table)


def test_the_number_of_threads_changes_nothing(voc):
    assert_same(make_table(voc.read(), SOURCES, workers=1), make_table(voc.read(), SOURCES, workers=4))


def test_whole_is_one_row_a_picture(voc):
    table = make_table(voc.read(), SourceSettings(source="whole", grid=GRID))

    assert table.n_rows == 6 and table.source == "whole"
    assert all_rows(table).box_xyxy.tolist() == [[0, 0, 96, 64]] * 6
    assert all_rows(table).picture.tolist() == list(range(6))
    assert table.labels(FILLS).tolist() == [1, 0] * 3  # 64 x 52 of 96 x 64: 54 % of it


def test_a_small_picture_is_bad_for_the_grid_only(voc):
    voc.add("small", [], (15, 15))

    with pytest.raises(DatasetError, match=r"small: .*small\.jpg: 15 x 15 pixels: the smallest window is 7\.5 px"):
        make_table(voc.read(), SOURCES)
    assert make_table(voc.read(), SourceSettings(source="whole", grid=GRID)).n_rows == 7


def test_a_turned_picture_is_taken_the_way_its_annotation_means(voc):
    pixels = Image.new("RGB", (96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for name, size in (("stored", (96, 64)), ("turned", (64, 96))):
        voc.add(name, [], size)
        pixels.save(voc.picture(name), exif=exif)

    table = make_table(voc.read(), SOURCES)

    assert table.apply_exif.tolist() == [False] * 6 + [False, True]
    assert table.size_wh[-2:].tolist() == [[96, 64], [64, 96]]


def test_a_split_without_labels(voc):
    manifest = voc.manifest()
    split = replace(voc.read(), manifest=manifest, labels=None)

    table = make_table(split, SOURCES)

    assert not table.labelled and table.picture_labels.shape == (6, 0)


# ---- bad pictures ----------------------------------------------------------------------------------


def spoil(voc) -> None:
    """p1 to p5 become bad, each in its own way, and so does one more; p0 stays."""
    voc.picture("p1").unlink()
    data = voc.picture("p2").read_bytes()
    voc.picture("p2").write_bytes(data[: len(data) // 2])
    voc.picture("p3").write_bytes(b"")
    voc.picture("p4").write_bytes(b"<html>404</html>")
    voc.draw("p5", (96, 63))
    voc.draw("p6", (15, 15))


REASONS = [
    r"p1: .*p1\.jpg: No such file or directory",
    r"p2: .*p2\.jpg: cannot be decoded: .*truncated",
    r"p3: .*p3\.jpg: the file is empty",
    r"p4: .*p4\.jpg: cannot be decoded: expected JPEG",
    r"p5: .*p5\.jpg: the picture is 96 x 63, its annotation says 96 x 64",
    r"p6: .*p6\.jpg: 15 x 15 pixels: the smallest window is 7\.5 px",
]


@pytest.fixture
def spoilt(voc):
    """A split read while all was well, its pictures bad by the time they are decoded."""
    voc.add("p6", [], (15, 15))
    split = voc.read()
    spoil(voc)
    return split


def test_all_bad_pictures_are_listed_at_once(spoilt):
    with pytest.raises(DatasetError) as caught:
        make_table(spoilt, SOURCES)

    lines = str(caught.value).splitlines()
    assert lines[0] == "tiny train: 6 of 7 pictures are bad"
    for line, reason in zip(lines[1:7], REASONS, strict=True):
        assert re.search(reason, line)
    assert lines[7] == "fix them, or leave them out with --on-error skip (setting max_skipped: the largest share)"
    assert lines[8].startswith("or set grid.min_side_px: 7.5 or less, or source: whole")


def test_skipped_pictures_are_recorded_and_leave_no_row(spoilt):
    said = []

    table = make_table(spoilt, SOURCES, on_error="skip", max_skipped=0.9, say=said.append)

    assert table.ids == ("p0",) and table.n_rows == 17
    assert table.picture_labels.shape == (1, 2)
    assert [i for i, _ in table.skipped] == ["p1", "p2", "p3", "p4", "p5", "p6"]
    # Reasons are kept, and are part of a store's identity: they say nothing of where the pictures lay.
    for (name, reason), with_place in zip(table.skipped, REASONS, strict=True):
        assert re.search(with_place, f"{name}: {name}.jpg: {reason}")
        assert "jpg" not in reason and "/" not in reason and name not in reason
    assert "6 of 7 pictures are bad" in said[0] and "recorded" in said[0]


def test_skipping_gives_the_table_of_the_others(voc):
    voc.write_ids(["p0", "p2", "p3"])
    expected = make_table(voc.read(), SOURCES)
    voc.write_ids(["p0", "p1", "p2", "p3"])
    split = voc.read()
    voc.picture("p1").write_bytes(b"")

    table = make_table(split, SOURCES, on_error="skip", max_skipped=0.25)

    assert table.rows_digest == expected.rows_digest
    assert table.pictures_digest() == expected.pictures_digest()
    np.testing.assert_array_equal(table.labels(FILLS), expected.labels(FILLS))
    np.testing.assert_array_equal(table.picture_labels, expected.picture_labels)


@pytest.mark.parametrize(("max_skipped", "refused"), [(0.5, False), (0.49, True), (0.0, True)])
def test_too_many_skipped_are_refused(voc, max_skipped, refused):
    split = voc.read()
    for name in ("p0", "p2", "p5"):
        voc.picture(name).write_bytes(b"")
    if refused:
        with pytest.raises(DatasetError, match=r"3 of 6 pictures are bad[\s\S]*more than may be skipped"):
            make_table(split, SOURCES, on_error="skip", max_skipped=max_skipped)
    else:
        assert make_table(split, SOURCES, on_error="skip", max_skipped=max_skipped).ids == ("p1", "p3", "p4")


def test_all_bad_is_refused_whatever_may_be_skipped(voc):
    split = voc.read()
    for name in voc.ids:
        voc.picture(name).write_bytes(b"")

    with pytest.raises(DatasetError, match=r"6 of 6 pictures are bad[\s\S]*and never all"):
        make_table(split, SOURCES, on_error="skip", max_skipped=1.0)


def test_a_box_outside_of_a_picture_whose_size_was_unknown(voc):
    voc.annotate("p3", [("cat", (200, 200, 250, 250), 0)], size=(0, 0))

    with pytest.raises(DatasetError, match=r"p3: .*box \[200, .*\] outside of the picture of 96 x 64 by 186 pixels"):
        make_table(voc.read(), SOURCES)


# ---- digests ---------------------------------------------------------------------------------------


def set_ids(voc):
    voc.write_ids(voc.ids[::-1])


def set_fewer(voc):
    voc.write_ids(voc.ids[:-1])


def set_size(voc):
    voc.draw("p3", (97, 64))
    voc.annotate("p3", [("cat", (9, 9, 72, 60), 0)], (97, 64))


def set_pixels(voc):
    voc.draw("p3", seed=99)


def set_box(voc):
    voc.annotate("p3", [("cat", (33, 9, 40, 20), 0)])


def set_class(voc):
    voc.annotate("p3", [("dog", (9, 9, 72, 60), 0)])


def set_difficult(voc):
    voc.annotate("p3", [("cat", (9, 9, 72, 60), 1)])


def set_second(voc):
    voc.annotate("p3", [("cat", (9, 9, 72, 60), 0), ("dog", (10, 10, 72, 60), 0)])


def nothing(voc):
    pass


@pytest.mark.parametrize(
    ("change", "rows", "pictures", "labels"),
    [
        pytest.param(nothing, False, False, False, id="nothing"),
        pytest.param(set_ids, True, True, True, id="order of the ids"),
        pytest.param(set_fewer, True, True, True, id="one picture fewer"),
        pytest.param(set_size, True, True, True, id="size of a picture"),
        pytest.param(set_pixels, False, True, False, id="pixels of a picture"),
        pytest.param(set_box, False, False, True, id="box of an object"),
        pytest.param(set_class, False, False, True, id="class of an object"),
        pytest.param(set_difficult, False, False, True, id="difficult"),
        pytest.param(set_second, False, False, True, id="a second object"),
    ],
)
def test_what_changes_which_digest(voc, change, rows, pictures, labels):
    before = make_table(voc.read(), SOURCES)
    change(voc)

    after = make_table(voc.read(), SOURCES)

    assert (after.rows_digest != before.rows_digest) == rows
    assert (after.pictures_digest() != before.pictures_digest()) == pictures
    assert (after.labels_digest(FILLS) != before.labels_digest(FILLS)) == labels
    assert (after.annotation_digest != before.annotation_digest) == (labels or rows)


def test_rows_digest_follows_grid_and_source(voc):
    split = voc.read()
    tables = [
        make_table(split, SOURCES),
        make_table(split, SourceSettings(grid=GRID.model_copy(update={"overlap": 0.65}))),
        make_table(split, SourceSettings(grid=GRID.model_copy(update={"scales": (1.0, 2.1)}))),
        make_table(split, SourceSettings(source="whole", grid=GRID)),
    ]

    assert len({t.rows_digest for t in tables}) == len(tables)
    # Limits that no picture met decide no row.
    assert (
        make_table(split, SourceSettings(grid=GRID.model_copy(update={"max_patches": 99}))).rows_digest
        == tables[0].rows_digest
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ids", ("q0", "p1", "p2", "p3", "p4", "p5")),
        ("source", "crops"),
        ("size_wh", np.full((6, 2), 95, np.int32)),
        ("apply_exif", np.ones(6, bool)),
        ("picture", np.zeros(102, np.int32)),
        ("box_xyxy", np.zeros((102, 4), np.float32)),
        ("scale", np.ones(102, np.uint8)),
        ("grid", GRID.model_copy(update={"scales": (1.0, 2.1)})),
    ],
)
def test_every_part_of_the_row_plan_is_in_its_digest(voc, field, value):
    table = TableOfRows.of(make_table(voc.read(), SOURCES))

    assert replace(table, **{field: value}).compute_rows_digest() != table.rows_digest


def test_the_rows_digest_of_a_table_stays_what_it_was(voc):
    # Stores are joined on it: one that is made of these rows must go on to be found.
    table = make_table(voc.read(), SOURCES)

    assert table.rows_digest == "d66f448d0b2ed6d5a5b5436d411627f4f42de14d7613ad41464fc8a1158b20b6"


def test_labels_digest_follows_every_object_that_fills(voc):
    voc.annotate("p3", [("cat", (9, 9, 72, 60), 0), ("dog", (10, 10, 72, 60), 0)])
    before = make_table(voc.read(), SOURCES)
    voc.annotate("p3", [("cat", (9, 9, 72, 60), 0), ("dog", (10, 10, 72, 60), 1)])

    after = make_table(voc.read(), SOURCES)

    # Two objects fill: no single label either way.
    np.testing.assert_array_equal(after.labels(FILLS), before.labels(FILLS))
    assert after.labels_digest(FILLS) != before.labels_digest(FILLS)


def test_labels_digest_follows_reading_and_class_names(voc):
    table = make_table(voc.read(), SOURCES)
    readings = [FILLS, TOUCHES, LabelSettings(background="unfilled")]
    renamed = replace(table, classes=("cat", "wolf"))

    assert len({table.labels_digest(r) for r in readings} | {renamed.labels_digest(FILLS)}) == 4


# ---- the file --------------------------------------------------------------------------------------


@pytest.fixture
def table(voc) -> PatchTable:
    split = voc.read()
    voc.picture("p4").write_bytes(b"")
    return make_table(split, SOURCES, on_error="skip", max_skipped=0.5)


def test_write_read_round_trip(table, tmp_path):
    write_table(table, tmp_path / "deep/er/table.h5")

    assert_same(read_table(tmp_path / "deep/er/table.h5"), table)


def test_equal_tables_give_equal_bytes(table, voc, tmp_path):
    write_table(table, tmp_path / "a.h5")
    write_table(read_table(tmp_path / "a.h5"), tmp_path / "b.h5")

    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_split_without_labels_survives_the_file(voc, tmp_path):
    table = make_table(replace(voc.read(), labels=None), SOURCES)
    write_table(table, tmp_path / "t.h5")

    assert_same(read_table(tmp_path / "t.h5"), table)


def test_no_table(tmp_path):
    with pytest.raises(StoreError, match=r"none\.h5: no patch table; make it with: pipeline patches"):
        read_table(tmp_path / "none.h5")


@pytest.fixture
def path(table, tmp_path):
    path = tmp_path / "table.h5"
    write_table(table, path)
    return path


def test_a_flipped_byte_is_refused_wherever_it_is(path):
    data = path.read_bytes()
    positions = {*range(0, USER_BLOCK, 7), *np.linspace(0, len(data) - 1, 200).astype(int).tolist()}
    for position in sorted(positions):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(StoreError, match="changed since it was written: .*make it again: pipeline patches"):
            read_table(path)

    path.write_bytes(data)
    read_table(path)


COLUMNS = {"objects": OBJECT_COLUMNS, "pictures": (*PICTURE_COLUMNS, "from_numbers")}


@pytest.mark.parametrize("name", [f"{group}/{name}" for group, names in COLUMNS.items() for name in names])
def test_columns_carry_a_checksum_of_their_own(path, name):
    # For readers other than this project, which look at no digest.
    with h5py.File(path) as file:
        assert file[name].fletcher32


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path, share):
    os.truncate(path, int(share * path.stat().st_size))

    with pytest.raises(StoreError, match=r"table\.h5: .*make it again: pipeline patches"):
        read_table(path)


def test_rows_that_disagree_with_their_digest_are_refused_when_all_are_verified(table, tmp_path):
    other = replace(table, size_wh=table.size_wh - np.array([[1, 0]], np.int32))  # as many windows, elsewhere
    write_table(replace(other, rows_digest=table.rows_digest), tmp_path / "t.h5")
    read_table(tmp_path / "t.h5")

    with pytest.raises(StoreError, match="rows disagree with their digest"):
        verify_table(tmp_path / "t.h5")


def test_labels_that_disagree_with_their_hashes_are_refused_when_all_are_verified(table, tmp_path):
    write_table(replace(table, objects=replace(table.objects, difficult=~table.objects.difficult)), tmp_path / "t.h5")
    read_table(tmp_path / "t.h5")

    with pytest.raises(StoreError, match="labels of rows disagree with their hashes"):
        verify_table(tmp_path / "t.h5")


def test_a_table_that_is_verified_is_the_one_that_is_read(table, path):
    assert_same(verify_table(path), table)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: {"first_row": t.first_row[::-1].copy()}, id="rows not in order"),
        pytest.param(lambda t: {"first_row": t.first_row + 1}, id="rows before the first"),
        pytest.param(lambda t: {"first_row": t.first_row[:-1]}, id="rows of a picture less"),
        pytest.param(lambda t: {"size_wh": t.size_wh[:-1]}, id="a size less"),
        pytest.param(lambda t: {"sample_xyxy": np.zeros((5, 4))}, id="persons in a table of a grid"),
        pytest.param(lambda t: {"objects": replace(t.objects, first=t.objects.first[1:])}, id="other objects"),
        pytest.param(lambda t: {"objects": replace(t.objects, box_xyxy=np.zeros((2, 4)))}, id="a box less"),
        pytest.param(lambda t: {"objects": replace(t.objects, class_index=t.objects.class_index + 2)}, id="no class"),
    ],
)
def test_columns_that_disagree_are_refused(table, tmp_path, change):
    write_table(replace(table, **change(table)), tmp_path / "t.h5")

    with pytest.raises(StoreError, match="its columns disagree with one another"):
        read_table(tmp_path / "t.h5")


def test_another_number_of_windows_than_the_table_says_is_refused(table):
    changed = replace(table, first_row=table.first_row * 2)

    with pytest.raises(StoreError, match="picture p0 has 34 rows, and 17 are planned by this version; make it again"):
        changed.windows_of_picture(0)


def test_another_format_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "patch-table-3"
    path.write_bytes(checksum_hdf5(path.read_bytes()))

    with pytest.raises(StoreError, match="format 'patch-table-3', expected 'patch-table-4'"):
        read_table(path)


def test_a_missing_column_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["pictures/first_row"]
    path.write_bytes(checksum_hdf5(path.read_bytes()))

    with pytest.raises(StoreError, match="cannot be read as a patch table: .*first_row"):
        read_table(path)


# ---- stale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expect"),
    [
        pytest.param(nothing, None, id="nothing"),
        pytest.param(set_pixels, "pictures changed: p3", id="a picture"),
        pytest.param(set_box, "annotations or lists changed", id="an XML file"),
        pytest.param(set_difficult, "annotations or lists changed", id="difficult in an XML file"),
        pytest.param(set_ids, "annotations or lists changed", id="the order of the id list"),
        pytest.param(set_fewer, "annotations or lists changed", id="an id fewer"),
    ],
)
def test_what_makes_a_table_stale(voc, tmp_path, change, expect):
    table = make_table(voc.read(), SOURCES)
    memory = DigestMemory(tmp_path / "digests.sqlite")
    assert why_stale(table, voc.read(), memory) is None
    change(voc)

    assert why_stale(table, voc.read(), memory) == expect


def test_a_class_list_makes_a_table_stale(voc, tmp_path):
    for name in ("cat", "dog"):
        (voc.folder / f"ImageSets/Main/{name}_train.txt").write_text("".join(f"{i} 1\n" for i in voc.ids))
    table = make_table(voc.read(), SOURCES)
    (voc.folder / "ImageSets/Main/dog_train.txt").write_text("".join(f"{i} -1\n" for i in voc.ids))

    assert why_stale(table, voc.read(), DigestMemory(tmp_path / "m.sqlite")) == "annotations or lists changed"


def test_a_split_that_has_labels_no_more_makes_a_table_stale(voc, tmp_path):
    table = make_table(voc.read(), SOURCES)
    bare = replace(voc.read(), labels=None)

    reason = why_stale(table, bare, DigestMemory(tmp_path / "m.sqlite"))

    assert reason == "the manifest says otherwise whether the split has labels"


def test_other_classes_make_a_table_stale(voc, tmp_path):
    table = make_table(voc.read(), SOURCES)
    other = voc.read(classes=("dog", "cat"))

    assert why_stale(table, other, DigestMemory(tmp_path / "m.sqlite")) == "the classes changed"


def test_skipped_pictures_do_not_make_a_table_stale_until_they_are_mended(voc, tmp_path):
    data = voc.picture("p4").read_bytes()
    voc.picture("p4").write_bytes(b"")
    table = make_table(voc.read(), SOURCES, on_error="skip", max_skipped=0.5)
    memory = DigestMemory(tmp_path / "m.sqlite")
    assert why_stale(table, voc.read(), memory) is None

    voc.picture("p4").write_bytes(data)

    assert why_stale(table, voc.read(), memory) == "pictures changed: p4"
