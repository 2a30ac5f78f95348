"""`pipeline data check --near --labels`: copies of drawn scenes, leaks first; a picture in a wrong folder."""

import io
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.dataset.demo.scenes import draw_scene
from pipeline.dataset.manifest import load_manifest
from pipeline.dataset.read import read_split
from pipeline.io.atomic import read_json
from pipeline.stages import label_faults

CONFIG = {"trunk": "alexnet64", "precision": "fp32", "threads": 1, "grid": {"scales": [1.0]}}
NEAR = ("data", "check", "copies", "--near", "--config", "config.yaml")
COPIES = {
    ("train__s1", "val__same"),
    ("train__s2", "val__smaller"),
    ("train__s3", "val__cropped"),
    ("train__s4", "train__mirrored"),
}
"""By the name of the file, with its split."""


def crop(image: Image.Image, share: float) -> Image.Image:
    width, height = round(share * image.width), round(share * image.height)
    return image.crop((image.width - width, 0, image.width, height))


def draw_pictures(root: Path) -> None:
    for split, seeds in (("train", range(8)), ("val", range(20, 24))):
        (root / split / "scene").mkdir(parents=True)
        for seed in seeds:
            draw_scene(np.random.default_rng(seed))[0].save(root / split / "scene" / f"s{seed}.jpg", quality=95)
    shutil.copy(root / "train/scene/s1.jpg", root / "val/scene/same.jpg")
    first = {n: Image.open(io.BytesIO((root / f"train/scene/s{n}.jpg").read_bytes())) for n in (2, 3, 4)}
    first[2].resize((first[2].width // 2, first[2].height // 2)).save(root / "val/scene/smaller.jpg", quality=40)
    crop(first[3], 0.85).save(root / "val/scene/cropped.png")
    first[4].transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "train/scene/mirrored.jpg", quality=90)
    # A second class, with a scene among its pictures.
    for split, n_pictures in (("train", 9), ("val", 2)):
        (root / split / "noise").mkdir()
        for n in range(n_pictures):
            noise = np.random.default_rng([n, split == "val"]).integers(0, 256, (20, 26, 3), np.uint8)
            Image.fromarray(noise).resize((260, 200)).save(root / split / "noise" / f"g{n}.png")
    draw_scene(np.random.default_rng(30))[0].save(root / "train/noise/wrong.jpg", quality=95)


@pytest.fixture(scope="module")
def copies(tmp_path_factory, run_in):
    """Runs commands where the pictures are, extracted."""
    folder = tmp_path_factory.mktemp("near")
    draw_pictures(folder / "set")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = ["data new --root set --name copies"]
    lines += [f"extract --dataset copies --split {split} --config config.yaml" for split in ("train", "val")]
    for line in lines:
        ended = run_in(folder, *line.split())
        assert ended.code == 0, ended.err
    run = partial(run_in, folder)
    return run, folder


def name_of(picture: dict) -> str:
    return f"{picture['split']}__{picture['id'].rpartition('/')[2].rpartition('__')[2]}"


def names_of(pair: dict) -> tuple[str, ...]:
    return tuple(sorted(name_of(pair[which]) for which in ("first", "second")))


def test_copies_are_found_and_leaks_come_first(copies):
    run, folder = copies
    ended = run(*NEAR, "--json")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)

    assert {names_of(pair) for pair in found["pairs"]} == {tuple(sorted(pair)) for pair in COPIES}
    assert [pair["leak"] for pair in found["pairs"]] == [True, True, True, False]
    by_name = {names_of(pair): pair for pair in found["pairs"]}
    assert by_name["train__s1", "val__same"]["same_file"]
    assert [name for name, pair in by_name.items() if pair["mirrored"]] == [("train__mirrored", "train__s4")]
    assert found["compared"] > len(found["pairs"])  # rows alone would not tell
    assert len(found["groups"]) == 4
    assert found == read_json(folder / "results/copies_near.json")

    page = (folder / "results/copies_data.html").read_text()
    assert page.count("<img") == 8
    assert page.index("Leaks: one in train, one in val: 3") < page.index("Both in train: 1")


def test_printed_and_shown_again(copies):
    run, _ = copies
    ended = run(*NEAR)
    shown = run("show", "results/copies_near.json")
    table = run("show", "results/copies_near.json", "--format", "csv")

    assert ended.code == shown.code == table.code == 0, ended.err + shown.err + table.err
    assert "complete\nnear-duplicates: 3 pairs across splits, 1 within train, 0 within val" in ended.out
    assert ended.out.count("  LEAK ") == 3 and shown.out in ended.out
    assert len(table.out.splitlines()) == 5


def test_thresholds_decide_and_are_said(copies):
    run, _ = copies

    strict = json.loads(run(*NEAR, "--json", "--correlation", "1").out)
    narrow = json.loads(run(*NEAR, "--json", "--cosine", "1").out)

    assert {names_of(pair) for pair in strict["pairs"]} == {("train__s1", "val__same")}
    assert {names_of(pair) for pair in narrow["pairs"]} == {("train__s1", "val__same")}
    assert narrow["compared"] == 1 and "a cosine of 1 or more" in narrow["definition"]
    for option, value in (("--cosine", "0"), ("--correlation", "1.5")):
        ended = run(*NEAR, option, value)
        assert ended.code == 2 and "above 0, at most 1" in ended.err


def test_of_rows_of_zeros_the_same_file_is_found_and_it_is_said(copies, monkeypatch):
    run, folder = copies
    monkeypatch.chdir(folder)
    manifest = load_manifest("copies")
    for split in ("train", "val"):
        ids = read_split(manifest, split).ids
        np.save("zeros.npy", np.zeros((len(ids), 3), np.float32))
        Path("zeros.txt").write_text("\n".join(ids))
        line = f"import-features zeros.npy --ids zeros.txt --dataset copies --split {split} --name zeros"
        assert run(*line.split(), "--config", "config.yaml").code == 0

    ended = run(*NEAR, "--trunk", "imported/zeros", "--source", "whole")

    (pair,) = read_json(folder / "results/copies_near.json")["pairs"]
    assert names_of(pair) == ("train__s1", "val__same") and pair["leak"] and pair["cosine"] is None
    assert "near-duplicates: 1 pairs across splits" in ended.out and "(the same file)" in ended.out
    assert "NOTE: val: rows of 9 pictures are zeros: these were compared by the bytes of their files" in ended.out


def test_what_goes_with_what(copies):
    run, _ = copies

    assert "--config: settings go with --deep, --near" in run("data", "check", "copies", "--config", "c.yaml").err
    assert "--cosine and --correlation go with --near" in run("data", "check", "copies", "--cosine", "0.5").err
    missing = run("data", "check", "copies", "--near", "--trunk", "random")
    assert missing.code == 2 and "pipeline extract --dataset copies --split train --trunk random" in missing.err


def test_a_picture_in_the_wrong_folder_is_named_by_both_classes(copies):
    run, folder = copies
    options = ("data", "check", "copies", "--labels", "--config", "config.yaml")
    ended, as_json = run(*options), run(*options, "--json")
    assert ended.code == as_json.code == 0, ended.err + as_json.err
    found = json.loads(as_json.out)

    named = {(name_of({"split": "train", **fault}), fault["class"], fault["label"]) for fault in found["faults"]}
    assert named == {("train__wrong", "noise", "present"), ("train__wrong", "scene", "absent")}
    assert found["left_out"] == {} and found["pictures"] == 19
    assert run("show", "results/copies_labels.json").out in ended.out
    page = (folder / "results/copies_data.html").read_text()
    assert "The label says absent, the scores say present: 1" in page

    manifest = folder / "data_manifests/copies.yaml"
    as_it_is = manifest.read_text()
    assert "metric: voc12" in as_it_is and found["metric"] == "voc12"
    manifest.write_text(as_it_is.replace("metric: voc12", "metric: voc07"))
    by_other_metric = run("data", "check", "copies", "--near", "--config", "config.yaml")
    manifest.write_text(as_it_is)
    assert "copies_labels.json: it is of other rows, labels or settings" in by_other_metric.err
    assert "Labels that held-out" not in (folder / "results/copies_data.html").read_text()
    # Of near-duplicates that are stale, the command that gives them has their thresholds.
    near = folder / "results/copies_near.json"
    pairs = json.loads(near.read_text())
    near.write_text(json.dumps({**pairs, "cosine": 0.9, "made_from": "other"}))
    page_of_labels = run(*options)
    near.write_text(json.dumps(pairs))
    command = "pipeline data check copies --near --cosine 0.9, with the same settings"
    assert f"splits or thresholds; search again: {command}" in page_of_labels.err

    again = run("data", "check", "copies", "--near", "--labels", "--config", "config.yaml", "--json")
    both = json.loads(again.out)
    assert both["labels"]["faults"] == found["faults"] and len(both["near"]["pairs"]) == len(COPIES)
    names = ("results/copies_near.json", "results/copies_labels.json")
    assert "stale" not in run("show", *names).err
    picture = folder / "set/train/noise/g0.png"
    as_it_is = picture.read_bytes()
    picture.write_bytes(as_it_is + b"more")
    stale = run("show", *names).err
    picture.write_bytes(as_it_is)
    assert all(f"NOTE: {name}: stale: copies train: " in stale for name in names), stale


def test_a_class_that_a_fold_could_not_learn_has_no_held_out_ap():
    labels = np.array([[1, -1], [-1, -1], [1, 1], [-1, -1]], np.int8)
    scores = np.array([[0.9, 0.2], [0.1, 0.1], [0.8, np.nan], [0.2, 0.3]])
    assert label_faults.held_out_mean_ap(scores, labels, "voc12") == 1.0
    scores[2, 1] = 0.0
    assert label_faults.held_out_mean_ap(scores, labels, "voc12") == (1 + 0.25) / 2
