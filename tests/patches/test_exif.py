"""EXIF orientation: boxes land where they were drawn, by one rule for every picture of a set."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.dataset.describe.voc import new_manifest
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.picture import decode_picture
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.patches.table import PatchTable
from pipeline.patches.table_file import read_table, why_stale, write_table

SOURCES = SourceSettings(grid={"scales": [1.0], "overlap": 0.5})
BOX = (5, 5, 40, 30)
OBLONG, SQUARE = (96, 64), (80, 80)
# How a picture as it is shown is stored under each orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def draw(path: Path, orientation: int, shown_wh: tuple[int, int]) -> None:
    """A red object at `BOX` of the picture as it is shown."""
    image = Image.new("RGB", shown_wh, "grey")
    ImageDraw.Draw(image).rectangle(BOX, fill="red")
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if turn is None else image.transpose(turn)).save(path, exif=exif, quality=95)


def annotate(voc, name: str, size_wh: tuple[int, int] | None) -> None:
    voc.annotate(name, [("cat", tuple(v + 1 for v in BOX), 0)], size_wh or (0, 0))


@pytest.fixture
def bare(voc):
    """The folder without its pictures."""
    for name in voc.ids:
        voc.picture(name).unlink()
        (voc.folder / "Annotations" / f"{name}.xml").unlink()
    voc.write_ids([])
    return voc


def add(voc, name: str, orientation: int, shown_wh: tuple[int, int], stated: str = "shown") -> None:
    draw(voc.picture(name), orientation, shown_wh)
    stored_wh = shown_wh[::-1] if orientation >= 5 else shown_wh
    annotate(voc, name, {"shown": shown_wh, "stored": stored_wh, "none": None}[stated])
    voc.write_ids([*voc.ids, name])


def make(voc, **changes) -> tuple[PatchTable, str]:
    said: list[str] = []
    split = read_split(voc.manifest().model_copy(update=changes), "train", voc.root)
    return make_table(split, SOURCES, say=said.append), "\n".join(said)


@pytest.mark.parametrize("stated", ["shown", "none"])
@pytest.mark.parametrize("shown_wh", [OBLONG, SQUARE], ids=["oblong", "square"])
@pytest.mark.parametrize("orientation", STORED)
def test_boxes_land_where_they_were_drawn(bare, orientation, shown_wh, stated):
    add(bare, "a", orientation, shown_wh, stated)

    table, said = make(bare)

    assert tuple(table.size_wh[0]) == shown_wh
    assert bool(table.apply_exif[0]) is (orientation > 1)
    pixels = decode_picture(bare.picture("a").read_bytes(), bool(table.apply_exif[0]))
    x0, y0, x1, y1 = BOX
    assert pixels[y0 + 1 : y1, x0 + 1 : x1].mean((0, 1)) == pytest.approx([254, 0, 0], abs=8)
    assert ("EXIF orientation: 1 picture turned" in said) is (orientation > 1)


def test_a_picture_that_does_not_tell_is_as_those_that_do(bare):
    add(bare, "upright", 6, OBLONG)
    for name, orientation, size_wh in (("half", 3, OBLONG), ("mirrored", 2, OBLONG), ("square", 6, SQUARE)):
        add(bare, name, orientation, size_wh)
    table, said = make(bare)
    assert table.apply_exif.tolist() == [True] * 4
    assert "1 picture turned (their annotations tell), 3 pictures turned (as the others of the split)" in said

    stored_wh = OBLONG[::-1]
    annotate(bare, "upright", stored_wh)
    table, said = make(bare)
    assert table.apply_exif.tolist() == [False] * 4
    assert "1 picture as stored (their annotations tell), 3 pictures as stored (as the others of the split)" in said


def test_where_the_others_disagree_pictures_are_read_as_they_are_shown(bare):
    add(bare, "one", 6, OBLONG)
    add(bare, "two", 8, OBLONG, "stored")
    add(bare, "three", 3, OBLONG)

    table, said = make(bare)

    assert table.apply_exif.tolist() == [True, False, True]
    assert "the others disagree, 1 turned and 1 not" in said and "'exif: ignore'" in said


@pytest.mark.parametrize(("exif", "turned"), [("ignore", False), ("apply", True)])
def test_the_manifest_decides_for_pictures_that_do_not_tell(bare, exif, turned):
    add(bare, "tells", 6, OBLONG)
    add(bare, "square", 6, SQUARE)

    table, said = make(bare, exif=exif)

    assert table.apply_exif.tolist() == [True, turned]
    assert f"'exif: {exif}' in the manifest" in said


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_tiff_that_is_turned_is_refused_where_nothing_is_to_be_turned(bare, orientation):
    for name, stored_as in (("plain", 1), ("turned", orientation)):
        draw(bare.picture(name).with_suffix(".tif"), stored_as, SQUARE)
        annotate(bare, name, SQUARE)
    bare.write_ids(["plain", "turned"])

    with pytest.raises(
        DatasetError, match=f"turned.*: a TIFF file with orientation {orientation}.*exif: ignore"
    ) as caught:
        make(bare, exif="ignore")
    assert "plain" not in str(caught.value)
    assert make(bare, exif="apply")[0].size_wh.tolist() == [list(SQUARE)] * 2
    bare.write_ids(["plain"])
    assert len(make(bare, exif="ignore")[0].ids) == 1


def test_a_tiff_whose_annotation_states_the_turned_size_is_meant_so(bare):
    draw(bare.picture("a").with_suffix(".tif"), 6, OBLONG)
    annotate(bare, "a", OBLONG)
    bare.write_ids(["a"])

    table, _ = make(bare, exif="ignore")

    assert table.size_wh.tolist() == [list(OBLONG)]


def test_a_table_is_stale_after_a_change_of_exif_in_the_manifest(bare, tmp_path):
    add(bare, "square", 6, SQUARE)
    table, _ = make(bare, exif="ignore")
    write_table(table, tmp_path / "table.h5")

    assert read_table(tmp_path / "table.h5").exif == "ignore"

    class Memory:
        def digests(self, files):
            return table.picture_sha256

    assert why_stale(table, bare.read(), Memory()) == "exif in the manifest changed"


def test_pictures_without_orientation_say_nothing(voc):
    table, said = make(voc)

    assert not table.apply_exif.any() and said == ""


@pytest.mark.parametrize(("stated", "exif"), [("shown", "apply"), ("stored", "ignore")])
def test_a_new_manifest_says_what_the_pictures_tell(bare, tmp_path, stated, exif):
    add(bare, "tells", 6, OBLONG, stated)
    for n in range(3):
        add(bare, f"square{n}", 6, SQUARE)
    (bare.folder / "ImageSets/Main/train.txt").unlink()
    said: list[str] = []

    new_manifest(bare.folder, "own", tmp_path / "manifests", say=said.append)

    assert load_manifest("own", tmp_path / "manifests").exif == exif
    assert any("1 pictures tell" in line and "3 others fit both ways" in line for line in said)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as outside of pytest
def test_broken_metadata_of_a_sound_picture_is_passed_over(bare):
    image = Image.new("RGB", OBLONG, "grey")
    for name, exif in (("a", b"Exif\0\0nonsense"), ("b", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), ("c", b"")):
        image.save(bare.picture(name), exif=exif)
        annotate(bare, name, OBLONG)
    bare.write_ids(["a", "b", "c"])

    table, _ = make(bare)

    assert table.apply_exif.tolist() == [False] * 3 and np.array_equal(table.size_wh, [OBLONG] * 3)
