"""A small VOC folder, drawn where a test asks for it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.read import read_split
from pipeline.dataset.split import Split


class VocFolder:
    """Pictures of 96 x 64 with one object each; every part can be changed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "tiny"
        for sub in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (self.folder / sub).mkdir(parents=True)
        self.ids: list[str] = []
        for index in range(6):
            # The cat or dog covers (8, 8)..(72, 60): it fills the large windows.
            self.add(f"p{index}", [("cat" if index % 2 else "dog", (9, 9, 72, 60), 0)])

    def picture(self, name: str) -> Path:
        return self.folder / "JPEGImages" / f"{name}.jpg"

    def draw(self, name: str, size: tuple[int, int] = (96, 64), seed: int = 0) -> None:
        width, height = size
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(self.picture(name), quality=95)

    def annotate(self, name: str, objects: list[tuple], size: tuple[int, int] = (96, 64)) -> None:
        things = ""
        for label, box, difficult in objects:
            corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            things += (
                f"<object><name>{label}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"
            )
        text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{things}</annotation>"
        (self.folder / "Annotations" / f"{name}.xml").write_text(text)

    def write_ids(self, ids: list[str]) -> None:
        self.ids = ids
        (self.folder / "ImageSets/Main/train.txt").write_text("\n".join(ids) + "\n")

    def add(self, name: str, objects: list[tuple], size: tuple[int, int] = (96, 64)) -> None:
        self.draw(name, size, seed=len(self.ids))
        self.annotate(name, objects, size)
        self.write_ids([*self.ids, name])

    def manifest(self, classes: tuple[str, ...] = ("cat", "dog")) -> Manifest:
        return Manifest(
            name="tiny",
            title="Tiny",
            folder="tiny",
            classes=classes,
            metric="voc12",
            fit="train",
            eval="train",
            splits={"train": {}},
        )

    def read(self, **changes) -> Split:
        return read_split(self.manifest(**changes), "train", self.root)


@pytest.fixture
def voc(tmp_path) -> VocFolder:
    return VocFolder(tmp_path)
