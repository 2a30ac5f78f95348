"""Folders as users have them: pictures of one colour, XML files of VOC with one object, and what lies next to them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

BOX = "<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>9</ymax></bndbox>"


def draw(root: Path, *paths: str, size_wh: tuple[int, int] = (16, 12)) -> None:
    """Write pictures below a folder; the suffix decides the format, and an unknown one gets PNG's bytes."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        known = Image.registered_extensions().get((root / path).suffix.lower(), "PNG")
        Image.new("RGB", size_wh, "olive").save(root / path, format=known)


def annotate(root: Path, path: str, *classes: str, box: str = BOX, size: str = "") -> None:
    """Write an XML file with an object per class."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    things = "".join(f"<object><name>{name}</name>{box}</object>" for name in classes)
    (root / path).write_text(f"<annotation>{size}{things}</annotation>")


def write(root: Path, path: str, text: str) -> Path:
    """Write a text file below a folder."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")
    return root / path
