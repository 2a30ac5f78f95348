"""Whole runs on the same pictures under other names: ids, classes, folders, splits and the dataset itself.

Lists, tables and sorted folders name the pictures in the same order in both runs. That order is the one of the rows,
and what is drawn by a seed hangs on it (docs/concepts.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

CONFIG = {
    "trunk": "random",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.4},
    "heads": {
        "strong": {"hidden": [16], "max_epochs": [2, 1, 1]},
        "weak": {"kind": "weak", "hidden": [16], "top": 2, "max_epochs": [2, 1]},
        "svm": {"kind": "svm", "costs": [0.01, 1.0]},
    },
    "aggregations": [1, 5, "max"],
    "held_out": 0.4,
}
COLOURS = ("firebrick", "navy", "darkgreen")
N = {"train": 15, "val": 12}


@dataclass(frozen=True)
class Names:
    """What a user may name as they like."""

    dataset: str
    root: str
    classes: tuple[str, str, str]
    picture: Callable[[int], str]
    splits: tuple[str, str] = ("train", "val")
    pictures_folder: str = "JPEGImages"
    annotations_folder: str = "Annotations"


PLAIN = Names("own", "pictures", ("ant", "bee", "cow"), lambda n: f"p{n:03}")
OTHER = Names(
    "zoo_9",
    "elsewhere/My photos",
    ("fjord", "Ölberg", "über alles"),
    lambda n: f"X {n:03} (é)",
    ("training", "valid"),
    "images",
    "annotations",
)


def draw_pictures() -> list[tuple[str, Image.Image, int]]:
    """Draw pictures of 64 x 48 px: split, picture, and the class that its label says; some labels are wrong."""
    rng, drawn = np.random.default_rng(7), []
    for split, count in N.items():
        for n in range(count):
            image = Image.new("RGB", (64, 48), COLOURS[n % 3])
            pen = ImageDraw.Draw(image)
            for _ in range(6):
                x, y = map(int, rng.integers(0, 48, 2))
                pen.ellipse([x, y, x + 6, y + 6], fill=tuple(map(int, rng.integers(0, 255, 3))))
            drawn.append((split, image, (n % 3 + (n % 4 == 1)) % 3))
    return drawn


def write_voc(root: Path, names: Names) -> str:
    for folder in (names.pictures_folder, names.annotations_folder, "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    lists: dict[str, list[str]] = {split: [] for split in N}
    for n, (split, image, label) in enumerate(draw_pictures()):
        i = names.picture(n)
        image.save(root / names.pictures_folder / f"{i}.png")
        box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>44</xmax><ymax>44</ymax></bndbox>"
        thing = f"<object><name>{names.classes[label]}</name>{box}</object>"
        (root / names.annotations_folder / f"{i}.xml").write_text(f"<annotation>{thing}</annotation>", encoding="utf-8")
        lists[split].append(i)
    for split, ids in lists.items():
        (root / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    return f"--root|{root}"


def write_folders(root: Path, names: Names) -> str:
    for n, (split, image, label) in enumerate(draw_pictures()):
        folder = root / names.splits[list(N).index(split)] / names.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{names.picture(n)}.png")
    return f"--root|{root}"


def write_table(root: Path, names: Names) -> str:
    lines = ["picture,label,split"]
    for n, (split, image, label) in enumerate(draw_pictures()):
        path = f"{names.pictures_folder}/{names.picture(n)}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(root / path)
        lines.append(f"{path},{names.classes[label]},{split}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"--table|{root / 'labels.csv'}"


def measure(folder: Path, run_in, write: Callable[[Path, Names], str], names: Names, heads: tuple[str, ...]):
    """Run every stage; return k and the AP of each class in their order, by head."""
    new = write(folder / names.root, names)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))

    def run(*argv: str) -> None:
        ended = run_in(folder, *argv)
        assert ended.code == 0, (argv, ended.err)

    run("data", "new", "--name", names.dataset, *new.split("|"))
    common = ("--dataset", names.dataset, "--config", "config.yaml")
    for split in N:
        run("extract", "--split", split, *common)
    of_heads = [option for head in heads for option in ("--head", head)]
    run("fit-head", *of_heads, *common)
    run("score", *of_heads, *common)
    measured = {}
    for head in heads:
        run("evaluate", "--head", head, "--output", f"{head}.json", *common)
        result = json.loads((folder / f"{head}.json").read_text())
        measured[head] = (result["k"], [result["AP"][name] for name in names.classes])
    return measured


@pytest.mark.parametrize(
    ("write", "heads"),
    [
        (write_voc, ("strong", "weak", "svm")),
        pytest.param(write_folders, ("weak", "svm"), marks=pytest.mark.long),
        (write_table, ("weak", "svm")),
    ],
    ids=["voc", "class folders", "table"],
)
def test_other_names_leave_every_ap_equal(tmp_path, run_in, write, heads):
    plain, other = (measure(tmp_path / names.dataset, run_in, write, names, heads) for names in (PLAIN, OTHER))

    assert plain == other
    assert all(0.2 < ap < 1 for _, of_classes in plain.values() for ap in of_classes)
