"""Hand-made features from the command to a sealed store, like any other trunk."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from support.cli import run_to_success
from support.dataset import copy_work

from pipeline.cli.main import main

CONFIG = {
    "trunk": "fisher",
    "layer": "fisher",
    "source": "whole",
    "threads": 1,
    "fisher": {"words": 3, "components": 6, "input_px": 64},
}
MAKE = "trunk make --dataset tiny --config config.yaml"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """A work folder with dataset ``tiny``, three pictures to fit on and two to evaluate."""
    place = tmp_path_factory.mktemp("drawn")
    folder = place / "data/tiny"
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / sub).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, ids in (("train", "abc"), ("val", "de")):
        for i in ids:
            cells = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8))
            cells.resize((80, 64), Image.Resampling.BICUBIC).save(folder / "JPEGImages" / f"{i}.png")
            box = "<xmin>5</xmin><ymin>5</ymin><xmax>60</xmax><ymax>50</ymax>"
            kind = "ball" if i in "ad" else "crate"
            xml = f"<annotation><object><name>{kind}</name><bndbox>{box}</bndbox></object></annotation>"
            (folder / "Annotations" / f"{i}.xml").write_text(xml)
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n")
    (place / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    run_to_success(place, "data new --root data/tiny --name tiny")
    return place


@pytest.fixture(scope="module")
def made(drawn, tmp_path_factory) -> Path:
    """The same, with the codebook."""
    place = copy_work(drawn, tmp_path_factory.mktemp("made") / "work")
    run_to_success(place, MAKE)
    return place


@pytest.fixture
def place(drawn, tmp_path, monkeypatch) -> Path:
    """A folder in which nothing was made yet, to change at will; the current one."""
    monkeypatch.chdir(copy_work(drawn, tmp_path / "work"))
    return Path.cwd()


@pytest.fixture
def made_place(made, tmp_path, monkeypatch) -> Path:
    """The same after `MAKE`."""
    monkeypatch.chdir(copy_work(made, tmp_path / "work"))
    return Path.cwd()


def card_of(place: Path) -> Path:
    """The one card that was made."""
    (card,) = (place / "cache/trunks").glob("*.yaml")
    return card


def test_from_pictures_to_a_sealed_store(place, capsys):
    main(MAKE.split())
    for split in ("train", "val"):
        main(f"extract --dataset tiny --split {split} --config config.yaml".split())
    main(["cache", "verify", "--recompute", "3"])
    out = capsys.readouterr().out
    assert "rows 3 x 96" in out
    assert "rows 2 x 96" in out
    assert "3 rows recomputed in cpu-fp32: 3 equal bit for bit" in " ".join(out.split())
    card = yaml.safe_load(card_of(place).read_text())
    assert f"  sha256 {card['weights_sha256']}" in out
    assert card["layers"] == {"fisher": 96}
    assert card["trained"]["source"] == "3 windows of tiny train, without labels"
    assert card["trained"]["settings"]["words"] == 3


def test_the_card_is_a_trunk_by_itself(made_place, capsys):
    config = {**CONFIG, "trunk": str(card_of(made_place))}
    (made_place / "by-card.yaml").write_text(yaml.safe_dump(config))
    for name in ("config", "by-card"):
        main(f"extract --dataset tiny --split val --config {name}.yaml".split())
    assert len(list((made_place / "cache").glob("tiny-val-*.zarr"))) == 1


def test_codebook_sees_the_pictures_of_the_fit_split_alone(made_place):
    weights = card_of(made_place).with_suffix(".safetensors")
    before = weights.read_bytes()
    for i in "de":
        Image.new("RGB", (80, 64), "red").save(made_place / f"data/tiny/JPEGImages/{i}.png")
    for path in (made_place / "data/tiny/Annotations").iterdir():
        path.write_text(path.read_text().replace("60", "40").replace("crate", "ball"))
    main(MAKE.split())
    assert weights.read_bytes() == before
    Image.new("RGB", (80, 64), "red").save(made_place / "data/tiny/JPEGImages/a.png")
    main(MAKE.split())
    assert weights.read_bytes() != before
    assert all(np.isfinite(values).all() for values in load_file(weights).values())


@pytest.mark.long
@pytest.mark.parametrize("change", [{"trunk_seed": 1}, {"fisher": {**CONFIG["fisher"], "words": 2}}])
def test_another_codebook_is_another_store(made_place, change):
    for content in (CONFIG, {**CONFIG, **change}):
        (made_place / "config.yaml").write_text(yaml.safe_dump(content))
        main(MAKE.split())
        main(["extract", "--dataset", "tiny", "--split", "train", "--config", "config.yaml"])
    assert len(list((made_place / "cache").glob("tiny-train-*.zarr"))) == 2
    assert len(list((made_place / "cache/trunks").glob("*.yaml"))) == 2


MISTAKES = {
    "not made yet": (
        "extract --dataset tiny --split val --config config.yaml",
        {},
        "make it with: pipeline trunk make",
    ),
    "no word": (MAKE, {"fisher": {"words": 0}}, "fisher.words: Input should be greater than or equal to 1"),
    "too many words": (MAKE, {"fisher": {"words": 100, "input_px": 64}}, "300 descriptors for 100 words"),
    "a trunk that is not made": (MAKE, {"trunk": "alexnet64", "layer": "fc7"}, "'alexnet64' is made from no dataset"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(place, capsys, name):
    line, change, message = MISTAKES[name]
    (place / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **change}))
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_another_arithmetic_than_fp32_is_refused(made_place, capsys):
    with pytest.raises(SystemExit):
        main(["extract", "--dataset", "tiny", "--split", "val", "--config", "config.yaml", "--precision", "bf16"])
    assert "computes in fp32 alone" in capsys.readouterr().err


SVM = {
    "head": "svm",
    "heads": {"svm": {"kind": "svm", "pooling": ["mean"], "costs": [1.0]}},
    "aggregation": "pooled",
    "compare": ["svm"],
}


def draw_stripes(stands: bool, rng: np.random.Generator) -> Image.Image:
    """Stripes of any width, phase and two colours, which stand or lie."""
    axis = np.mgrid[:48, :48][int(stands)]
    wave = np.sin(axis * (2 * np.pi / rng.uniform(6, 12)) + rng.uniform(0, 7))[..., None]
    colours = np.where(wave > 0, rng.uniform(120, 255, 3), rng.uniform(0, 120, 3))
    return Image.fromarray(np.clip(colours + rng.normal(0, 12, (48, 48, 3)), 0, 255).astype(np.uint8))


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    """Make dataset ``stripes`` and take it from pictures to mAP; with `shuffled`, the fit pictures are mixed up."""

    def run(shuffled: bool) -> float:
        place = tmp_path / f"shuffled-{shuffled}"
        folder, rng = place / "data/stripes", np.random.default_rng(0)
        for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / sub).mkdir(parents=True)
        for split, n in (("train", 20), ("val", 16)):
            ids = [f"{split}{i:02}" for i in range(n)]
            stands = np.arange(n) % 2 == 0
            drawn = rng.permutation(stands) if shuffled and split == "train" else stands
            for name, kind, looks in zip(ids, stands, drawn, strict=True):
                draw_stripes(looks, rng).save(folder / "JPEGImages" / f"{name}.png")
                box = "<xmin>1</xmin><ymin>1</ymin><xmax>48</xmax><ymax>48</ymax>"
                xml = f"<object><name>{'fence' if kind else 'blind'}</name><bndbox>{box}</bndbox></object>"
                (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{xml}</annotation>")
            (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n")
        (place / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **SVM}))
        monkeypatch.chdir(place)
        main(["data", "new", "--root", "data/stripes", "--name", "stripes"])
        steps = ("trunk make", "extract --split train", "extract --split val", "fit-head", "score", "evaluate")
        for step in steps:
            main([*step.split(), "--dataset", "stripes", "--config", "config.yaml"])
        (result,) = (place / "results/runs").glob("*/map.json")
        return json.loads(result.read_text())["mAP"]

    return run


@pytest.mark.long
def test_the_recipe_tells_what_the_pictures_show(stripes):
    found, without = stripes(shuffled=False), stripes(shuffled=True)
    assert found > 0.9
    assert without < 0.75  # half of the pictures are of each class
