"""The drawn demo dataset: same seed, same scenes; a folder that the reader of VOC files accepts."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.demo.canvas import Canvas
from pipeline.dataset.demo.scenes import CLASSES, draw_demo, draw_scene
from pipeline.dataset.demo.shapes import CLASS_DRAWERS
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError


def files_below(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "demo"
    draw_demo(folder, n_train=20, n_val=6, seed=7)
    return folder


@pytest.fixture
def demo_manifest(demo_folder):
    return load_manifest("demo").model_copy(update={"folder": str(demo_folder)})


def test_manifest_agrees_with_the_code():
    manifest = load_manifest("demo")
    assert manifest.classes == CLASSES
    assert manifest.drawn is not None
    assert manifest.splits["train"].pictures == manifest.drawn.train
    assert manifest.splits["val"].pictures == manifest.drawn.val


def test_the_same_generator_gives_the_same_scene():
    (first, objects), (second, objects_again) = (draw_scene(np.random.default_rng([7, 0, 3])) for _ in range(2))
    assert np.array_equal(first, second)
    assert objects == objects_again


def test_other_seeds_give_other_scenes(demo_folder):
    assert not np.array_equal(draw_scene(np.random.default_rng(1))[0], draw_scene(np.random.default_rng(2))[0])
    train, val = ((demo_folder / "JPEGImages" / f"{split}_0001.jpg").read_bytes() for split in ("train", "val"))
    assert train != val


def test_a_scene_depends_on_its_number_alone(tmp_path, demo_folder):
    draw_demo(tmp_path, n_train=2, n_val=1, seed=7)
    whole = files_below(demo_folder)
    for name, content in files_below(tmp_path).items():
        if not name.startswith("ImageSets"):
            assert content == whole[name], name


def test_going_on_keeps_what_is_there(tmp_path):
    draw_demo(tmp_path, n_train=2, n_val=1, seed=7)
    whole = files_below(tmp_path)
    kept = tmp_path / "JPEGImages" / "train_0001.jpg"
    before = kept.stat().st_mtime_ns
    # As after a stop: one annotation and the lists are missing, one more scene is wanted.
    (tmp_path / "Annotations" / "train_0002.xml").unlink()
    (tmp_path / "ImageSets" / "Main" / "train.txt").unlink()
    draw_demo(tmp_path, n_train=3, n_val=1, seed=7)
    after = files_below(tmp_path)
    assert kept.stat().st_mtime_ns == before
    assert {name: after[name] for name in whole if "train.txt" not in name} == {
        name: content for name, content in whole.items() if "train.txt" not in name
    }
    assert after["ImageSets/Main/train.txt"].split() == [b"train_0001", b"train_0002", b"train_0003"]


def test_scenes_of_another_seed_are_not_mixed_in(tmp_path):
    draw_demo(tmp_path, n_train=1, n_val=1, seed=7)
    with pytest.raises(DatasetError, match="seed.*7.*asked for.*8"):
        draw_demo(tmp_path, n_train=1, n_val=1, seed=8)


def test_no_scene_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="at least 1"):
        draw_demo(tmp_path, n_train=0, n_val=1, seed=7)


@pytest.mark.parametrize(("split", "n"), [("train", 20), ("val", 6)])
def test_the_voc_reader_takes_it(demo_manifest, split, n):
    read = read_split(demo_manifest, split)
    assert len(read.ids) == n
    assert read.labels.shape == (n, len(CLASSES))
    for path, annotation in zip(read.paths, read.annotations, strict=True):
        with Image.open(path) as picture:
            assert picture.size == annotation.size_wh
        width, height = annotation.size_wh
        assert len(annotation.class_index) >= 1
        assert (annotation.box_xyxy >= 0).all()
        assert (annotation.box_xyxy <= [width, height, width, height]).all()
        assert (annotation.box_xyxy[:, 2:] - annotation.box_xyxy[:, :2] >= 5).all()


def test_every_class_appears(demo_manifest):
    labels = read_split(demo_manifest, "train").labels
    assert (labels == 1).any(axis=0).all()


def test_corners_are_one_based_and_inside():
    for seed in range(12):
        picture, objects = draw_scene(np.random.default_rng(seed))
        for item in objects:
            x0, y0, x1, y1 = item.corners
            assert 1 <= x0 <= x1 <= picture.width
            assert 1 <= y0 <= y1 <= picture.height


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_fills_its_tile_whole(name):
    """No style is cut by the edge of its canvas, and its box is as large as was asked for."""
    for seed in range(8):
        canvas = Canvas(60, np.random.default_rng(seed), max_turn=40)
        CLASS_DRAWERS[name](canvas)
        border = np.asarray(canvas._tile.getchannel("A"))
        assert not (border[[0, -1]].any() or border[:, [0, -1]].any())
        tile = canvas.finished()
        assert 30 <= max(tile.size) <= 90


def test_pictures_are_plain_jpeg(demo_folder):
    data = (demo_folder / "JPEGImages" / "val_0001.jpg").read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
