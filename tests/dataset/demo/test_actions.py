"""The drawn action set: the same seed draws the same people, and the reader of the action task takes them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.demo.actions import ACTIONS, draw_demo, draw_scene
from pipeline.dataset.demo.figures import ACTION_DRAWERS, FigureCanvas, draw_walking_and_reading
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.errors import DatasetError


def files_below(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "demo_action"
    draw_demo(folder, n_train=40, n_val=4, seed=7)
    return folder


@pytest.fixture
def split(folder):
    return read_split(load_manifest("demo_action").model_copy(update={"folder": str(folder)}), "train")


def test_manifests_agree_with_the_code():
    for name in ("demo_action", "demo_action_pictures"):
        assert load_manifest(name).classes == ACTIONS


def test_a_scene_depends_on_its_number_alone(tmp_path, folder):
    draw_demo(tmp_path, n_train=2, n_val=1, seed=7)
    whole = files_below(folder)
    for name, content in files_below(tmp_path).items():
        if not name.startswith("ImageSets"):
            assert content == whole[name], name


def test_scenes_of_another_seed_are_not_mixed_in(tmp_path):
    draw_demo(tmp_path, n_train=1, n_val=1, seed=7)
    with pytest.raises(DatasetError, match="seed.*7.*asked for.*8"):
        draw_demo(tmp_path, n_train=1, n_val=1, seed=8)


def test_the_reader_takes_it(split):
    assert len(set(split.paths)) == 40 < len(split.ids)
    assert (split.labels == 1).any(axis=0).all(), "every action is drawn"
    assert set((split.labels == 1).sum(axis=1).tolist()) <= {1, 2}
    for path, annotation in zip(split.paths, split.annotations, strict=True):
        with Image.open(path) as picture:
            assert picture.size == annotation.size_wh
        x0, y0, x1, y1 = annotation.sample_xyxy
        assert 0 <= x0 < x1 <= annotation.size_wh[0] and 0 <= y0 < y1 <= annotation.size_wh[1]
        assert max(x1 - x0, y1 - y0) > 40


def test_what_nobody_scores_has_no_list(folder):
    lists = {path.name for path in (folder / "ImageSets/Action").iterdir()}
    assert lists == {f"{name}_{s}.txt" for name in ACTIONS[:-1] for s in ("train", "val")} | {"train.txt", "val.txt"}


@pytest.mark.parametrize("name", [*ACTIONS, "both"])
def test_the_box_is_the_persons(name):
    """The person is as tall as its box; what is ridden or sat at reaches beyond it."""
    draw = ACTION_DRAWERS.get(name, draw_walking_and_reading)
    for seed in range(6):
        canvas = FigureCanvas(100, np.random.default_rng(seed))
        draw(canvas)
        border = np.asarray(canvas._tile.getchannel("A"))
        assert not (border[[0, -1]].any() or border[:, [0, -1]].any()), "cut by the edge of its canvas"
        tile, (x0, y0, x1, y1) = canvas.finished_with_box()
        assert 0 <= x0 < x1 <= tile.width and 0 <= y0 < y1 <= tile.height
        assert 55 <= y1 - y0 <= 110
        if name in ("ridingbike", "ridinghorse"):
            assert x1 - x0 < 0.7 * tile.width
        elif name in ("running", "walking"):
            assert (x1 - x0, y1 - y0) == pytest.approx(tile.size, abs=2)


def test_scenes_have_one_to_four_persons():
    for seed in range(10):
        _, persons = draw_scene(np.random.default_rng(seed))
        assert 1 <= len(persons) <= 4
        assert all(1 <= sum(flag for _, flag in person.actions) <= 2 for person in persons)
