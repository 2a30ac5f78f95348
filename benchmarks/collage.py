"""A VOC-layout folder that is not VOC, made from any class folders, to try `pipeline data new` on.

    python benchmarks/collage.py --pictures tiny/val --out collage --classes 8 --count 160
    pipeline data new --root collage --name collage
    snakemake --cores 2 results/collage_map.json

Each collage holds two to four pictures of different sizes, with their boxes, on a blurred background
made of another picture. No ImageSets: the splits are made by `pipeline data new`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageFilter


def place(rng: np.random.Generator, taken: list[tuple[int, int, int, int]], size: tuple[int, int]) -> tuple | None:
    """A square that meets none of those taken, or None."""
    for _ in range(30):
        side = int(rng.integers(70, 190))
        x, y = int(rng.integers(0, size[0] - side)), int(rng.integers(0, size[1] - side))
        if all(x + side <= a or c <= x or y + side <= b or d <= y for a, b, c, d in taken):
            return x, y, x + side, y + side
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of class folders")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--count", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    folders = sorted(p for p in options.pictures.iterdir() if p.is_dir())
    # Spread over the sorted names, so that neighbours, which are often alike, are not taken together.
    folders = [folders[i] for i in np.linspace(0, len(folders) - 1, options.classes).astype(int)]
    files = {folder.name: sorted(p for p in folder.iterdir() if p.is_file()) for folder in folders}
    for sub in ("JPEGImages", "Annotations"):
        (options.out / sub).mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        size = [(400, 300), (300, 400), (360, 360)][number % 3]
        names = [str(name) for name in rng.choice(list(files), int(rng.integers(2, 5)))]
        back = Image.open(rng.choice(files[str(rng.choice(list(files)))])).convert("RGB").resize(size)
        canvas = back.filter(ImageFilter.GaussianBlur(25))
        root = ElementTree.Element("annotation")
        ElementTree.SubElement(root, "filename").text = f"{number:04d}.jpg"
        for key, value in zip(("width", "height", "depth"), (*size, 3), strict=True):
            part = root.find("size")
            part = ElementTree.SubElement(root, "size") if part is None else part
            ElementTree.SubElement(part, key).text = str(value)
        taken: list[tuple[int, int, int, int]] = []
        for name in names:
            box = place(rng, taken, size)
            if box is None:
                continue
            taken.append(box)
            side = box[2] - box[0]
            canvas.paste(Image.open(rng.choice(files[name])).convert("RGB").resize((side, side)), box[:2])
            item = ElementTree.SubElement(root, "object")
            ElementTree.SubElement(item, "name").text = name
            bounds = ElementTree.SubElement(item, "bndbox")
            corners = (box[0] + 1, box[1] + 1, box[2], box[3])
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ElementTree.SubElement(bounds, key).text = str(value)
        canvas.save(options.out / "JPEGImages" / f"{number:04d}.jpg", quality=90)
        ElementTree.ElementTree(root).write(options.out / "Annotations" / f"{number:04d}.xml")


if __name__ == "__main__":
    main()
