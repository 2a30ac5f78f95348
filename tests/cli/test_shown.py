"""One and the same file as a picture of a split, a photo and a query; odd names, and where files are put."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from PIL import Image, ImageDraw
from support.dataset import CONFIG

SETTINGS = {**CONFIG, "heads": {"my_weak": {"kind": "weak", "top": 3, "hidden": []}}, "aggregation": "max"}


def draw(path, kind: str, turned: bool, shade: int) -> None:
    image = Image.new("RGB", (96, 64), (shade,) * 3)
    pen = ImageDraw.Draw(image)
    (pen.ellipse if kind == "salt, pepper" else pen.rectangle)((6, 6, 40, 40), fill="red")
    pen.rectangle((60, 50, 95, 63), fill="blue")
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.rotate(90, expand=True) if turned else image).save(path, exif=exif, quality=95)


@pytest.fixture(scope="module")
def turned(tmp_path_factory, run_in):
    """Runs commands where class folders have pictures that EXIF turns, and a head is fitted."""
    folder = tmp_path_factory.mktemp("turned")
    for kind in ("salt, pepper", "dog"):
        for n in range(6):
            draw(folder / "own" / kind / f"img ({n}).jpg", kind, n % 2 == 1, 90 + 20 * n)
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))

    def run(*argv: str):
        ended = run_in(folder, *argv)
        assert ended.code == 0, ended.err
        return ended

    run("data", "new", "--root", "own", "--name", "own")
    for split in ("train", "val"):
        run("extract", "--dataset", "own", "--split", split, "--config", "config.yaml")
    run("fit-head", "--dataset", "own", "--head", "my_weak", "--config", "config.yaml")
    return folder, run


def test_a_file_has_the_same_scores_as_a_picture_and_as_a_photo(turned):
    folder, run = turned
    ids = (folder / "data_manifests/own/val.txt").read_text().split()
    settings = ("--dataset", "own", "--head", "my_weak", "--config", "config.yaml", "--json")
    for i in ids:
        path = f"own/{'salt, pepper' if i.startswith('salt') else 'dog'}/img ({i[-2]}).jpg"
        of_split = json.loads(run("map", i, "--out", "a", *settings).out)[0]
        photo = json.loads(run("map", path, "--out", "b", *settings).out)[0]
        assert photo["scores"] == pytest.approx(of_split["scores"], abs=2e-2)
        query = json.loads(
            run("retrieve", "--dataset", "own", "--query", path, "--config", "config.yaml", "--json").out
        )
        nearest = query["queries"][0]["results"][0]
        assert (nearest["id"], nearest["distance"]) == (i, pytest.approx(0, abs=1e-3))


def test_classes_with_commas_are_named_as_they_are(turned):
    folder, run = turned
    (i, *_) = (folder / "data_manifests/own/val.txt").read_text().split()

    run(
        "map", i, "--dataset", "own", "--head", "my_weak", "--classes", "dog,salt, pepper", "--config", "config.yaml",
        "--out", "c",
    )  # fmt: skip

    assert (folder / f"c/{i}_map.png").is_file()


def test_home_folders_name_the_same_files(turned, tmp_path, monkeypatch):
    folder, run = turned
    monkeypatch.setenv("HOME", str(tmp_path))
    argv = ("patches", "--dataset", "own", "--split", "val", "--config", "config.yaml")

    first = run(*argv, "--cache=~/cache").out
    again = run(*argv, f"--cache={tmp_path}/cache").out
    run("map", "own/dog/img (1).jpg", "--head", "my_weak", "--dataset", "own", "--config=config.yaml", "--out=~/maps")

    assert first == again and first.startswith(f"{tmp_path}/cache/patches/own-val-")
    assert (tmp_path / "maps/img (1)_map.png").is_file()
    assert not list(folder.glob("~*"))


def test_output_never_ends_in_an_error_of_encoding(tmp_path):
    for name in ("Müller", "कि"):
        for n in range(2):
            draw(tmp_path / "own" / name / f"{n}.jpg", "dog", False, 90 + n)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}

    ended = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", "data", "new", "--root", "own", "--name", "own"],
        cwd=tmp_path, env=environment, capture_output=True, check=False,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert b"2 classes: M\\xfcller, \\u0915\\u093f" in ended.stderr
