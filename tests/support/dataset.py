"""A tiny dataset of balls and crates in the layout of VOC, its manifest, and a work folder around it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

SIZE_WH = (64, 48)
BOXES = {"ball": (40, 10, 59, 29), "crate": (6, 20, 25, 39)}  # 1-based, inclusive, as in VOC files
CONTENT = (["ball"], ["crate"], ["ball", "crate"])
"""What the pictures of a split show, in turn."""
FIT_AND_EVAL = {"train": ("p", 6), "val": ("q", 4)}
"""Six pictures to fit on (p0 ... p5), four to score (q0 ... q3)."""
MANIFEST = {
    "name": "tiny",
    "title": "drawn",
    "folder": "tiny",
    "classes": ["ball", "crate"],
    "metric": "voc12",
    "fit": "train",
    "eval": "val",
    "splits": {"train": {}, "val": {}},
}
CONFIG: dict[str, Any] = {
    "trunk": "random",
    "precision": "fp32",
    "threads": 1,
    "grid": {"scales": [1.0, 2.0], "overlap": 0.5},
    "heads": {"fca": {"hidden": [32], "max_epochs": [2, 1, 1]}},
}
"""Settings under which every stage takes a blink."""


def draw_scene(path: Path, names: Sequence[str], shade: int) -> None:
    """A red disc to the right and a red square to the left, as named, on grey."""
    picture = Image.new("RGB", SIZE_WH, (shade,) * 3)
    draw = ImageDraw.Draw(picture)
    for name in names:
        (draw.ellipse if name == "ball" else draw.rectangle)([v - 1 for v in BOXES[name]], fill="red")
    picture.save(path)


def write_annotation(path: Path, names: Sequence[str]) -> None:
    """An annotation file of VOC with one object per name."""
    objects = ""
    for name in names:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), BOXES[name], strict=True)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
        objects += f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"
    path.write_text(f"<annotation>{objects}</annotation>")


def make_dataset(
    root: Path,
    splits: Mapping[str, tuple[str, int]] = FIT_AND_EVAL,
    draw: Callable[[Path, Sequence[str], int], None] = draw_scene,
    unannotated: Sequence[str] = (),
) -> None:
    """Draw a dataset in an empty folder.

    Parameters
    ----------
    splits : first letter of the ids and number of pictures, by split
    draw : of a path, names of objects, and a shade of grey from 90
    unannotated : splits without annotations
    """
    for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / sub).mkdir(parents=True)
    for split, (letter, n) in splits.items():
        ids = [f"{letter}{i}" for i in range(n)]
        for i, name in enumerate(ids):
            names = CONTENT[i % len(CONTENT)]
            draw(root / "JPEGImages" / f"{name}.png", names, 90 + 20 * i)
            if split not in unannotated:
                write_annotation(root / "Annotations" / f"{name}.xml", names)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(ids) + "\n")


def write_manifest(work: Path) -> None:
    """The manifest of `make_dataset`'s two splits, in a work folder."""
    (work / "data_manifests").mkdir(exist_ok=True)
    (work / "data_manifests/tiny.yaml").write_text(yaml.safe_dump(MANIFEST))


def make_movable(work: Path) -> None:
    """Make the dataset's folder in the manifest relative, so that a copy of the work folder has pictures of its own."""
    path = work / "data_manifests/tiny.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "folder": "tiny"}, sort_keys=False))


def copy_work(work: Path, target: Path) -> Path:
    """Copy a work folder, pictures included."""
    shutil.copytree(work, target, symlinks=True)
    make_movable(target)
    return target
