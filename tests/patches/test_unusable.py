"""Annotations that cannot be used: all are listed, or their pictures left out, counted and named."""

import pytest

from pipeline.dataset.describe.voc import new_manifest
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError
from pipeline.patches.build import make_table
from pipeline.patches.settings import SourceSettings
from pipeline.patches.table_file import why_stale

SOURCES = SourceSettings(grid={"scales": [1.0], "overlap": 0.5})
TURNED = "<annotation><object><name>cat</name><robndbox><cx>5</cx></robndbox></object></annotation>"


@pytest.fixture
def spoilt(voc):
    """Of six pictures, one annotation is no XML, one object has no upright box, one lies far outside."""
    (voc.folder / "Annotations/p1.xml").write_text("<annotation><object>")
    (voc.folder / "Annotations/p3.xml").write_text(TURNED)
    voc.annotate("p4", [("cat", (1, 1, 400, 20), 0)])
    return voc


def test_all_are_listed_with_the_setting_that_leaves_them_out(spoilt):
    with pytest.raises(DatasetError) as caught:
        spoilt.read()

    message = str(caught.value)
    assert "3 problem(s)" in message and "--on-error skip (setting max_skipped" in message
    for part in ("p1: Annotations/p1.xml: not valid XML", "p3: .*", "p4: Annotations/p4.xml: object 1 (cat): box"):
        assert part.removesuffix(".*") in message


def test_with_skip_their_pictures_are_left_out_counted_and_named(spoilt):
    split = read_split(spoilt.manifest(), "train", spoilt.root, on_error="skip")
    said: list[str] = []

    table = make_table(split, SOURCES, on_error="skip", max_skipped=0.5, say=said.append)

    assert table.ids == ("p0", "p2", "p5")
    assert [i for i, _ in table.skipped] == ["p1", "p3", "p4"]
    assert "no <bndbox>, but <robndbox>" in dict(table.skipped)["p3"]
    assert all(len(digest) == 64 for digest in table.skipped_sha256)
    assert "3 of 6 pictures are bad" in said[0]

    class Memory:
        def digests(self, files):
            digests = dict(zip(table.ids, table.picture_sha256, strict=True))
            digests |= dict(zip([i for i, _ in table.skipped], table.skipped_sha256, strict=True))
            return [digests[path.stem] for path in files]

    assert why_stale(table, split, Memory()) is None
    spoilt.annotate("p3", [("cat", (9, 9, 72, 60), 0)])
    mended = read_split(spoilt.manifest(), "train", spoilt.root, on_error="skip")
    assert why_stale(table, mended, Memory()) == "annotations or lists changed"


def test_the_limit_holds_for_annotations(spoilt):
    split = read_split(spoilt.manifest(), "train", spoilt.root, on_error="skip")

    with pytest.raises(
        DatasetError, match=r"3 of 6 pictures are bad(?s:.*)more than may be skipped \(setting max_skip"
    ):
        make_table(split, SOURCES, on_error="skip", max_skipped=0.4)


def test_boxes_a_little_outside_are_clipped_counted_and_named(voc):
    voc.annotate("p2", [("cat", (60, 30, 100, 66), 0), ("dog", (-2, 1, 50, 60), 0)])
    voc.annotate("p3", [("cat", (60, 30, 100, 66), 0)], size=(0, 0))
    said: list[str] = []

    make_table(voc.read(), SOURCES, say=said.append)

    assert said == [
        "tiny train: 3 box(es) reached a little out of the picture and were clipped, in 2 picture(s): p2, p3"
    ]


def test_pictures_in_which_nothing_can_be_seen_are_noted(voc):
    from PIL import Image

    Image.new("RGB", (96, 64), (5, 5, 5)).save(voc.picture("p2"))
    said: list[str] = []

    make_table(voc.read(), SOURCES, say=said.append)

    assert len(said) == 1 and "NOTE: 1 of 6 pictures are all but constant" in said[0] and said[0].endswith(": p2")


def test_a_new_dataset_leaves_them_out_if_told_so(spoilt, tmp_path):
    manifests = tmp_path / "manifests"
    (spoilt.folder / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(DatasetError, match=r"3 problem\(s\)(?s:.*)leave these pictures out with --on-error skip"):
        new_manifest(spoilt.folder, "own", manifests)
    said: list[str] = []

    new_manifest(spoilt.folder, "own", manifests, say=said.append, on_error="skip")

    manifest = load_manifest("own", manifests)
    ids = [i for split in ("train", "val") for i in read_split(manifest, split).ids]
    assert sorted(ids) == ["p0", "p2", "p5"]
    assert any("left out, 3 of 6 pictures whose annotations cannot be used" in line for line in said)


def test_pictures_under_several_names_are_noted(voc):
    voc.picture("p4").write_bytes(voc.picture("p2").read_bytes())
    voc.annotate("p4", [("dog", (9, 9, 72, 60), 0)])
    voc.annotate("p2", [("cat", (9, 9, 72, 60), 0)])
    said: list[str] = []

    make_table(voc.read(), SOURCES, say=said.append)

    assert said == [
        "tiny train: NOTE: 1 pictures are there under several names, with the same bytes, 1 of them with other labels "
        "under each name: p2 = p4"
    ]
