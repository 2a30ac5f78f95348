"""The demo dataset: scenes that our own code draws, laid out as the VOC devkit.

Nothing to download and nobody's licence: a few hundred paper collages with twelve classes of things,
good enough to see a whole run work and its numbers move. One seed gives the same scenes again
(the same bytes with the same versions of numpy and Pillow).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from pipeline.dataset.demo.canvas import PALETTE, Canvas, ellipse, mix
from pipeline.dataset.demo.shapes import CLASS_DRAWERS, draw_clutter
from pipeline.io.atomic import read_json, write_atomic, write_json
from pipeline.io.errors import DatasetError
from pipeline.io.progress import track

CLASSES = tuple(sorted(CLASS_DRAWERS))
DRAWING = 1
"""Raised when the same seed would give other scenes; kept beside the pictures."""

SIZES_WH = ((500, 375), (500, 375), (375, 500), (480, 320), (400, 400), (333, 500), (500, 281))
COUNT_SHARES = (0.08, 0.18, 0.28, 0.24, 0.14, 0.08)  # of scenes with 1 to 6 objects
SMALLEST_PX = 30
LARGEST_SHARE = 0.7  # of the picture's short side
DIFFICULT_HIDDEN, LEFT_OUT_HIDDEN = 0.65, 0.9
DIFFICULT_PX = 25  # side of a square as large as the box
LEAST_INSIDE = 0.4  # of an object's area that the picture's border leaves
JPEG_QUALITY = 90
SPLIT_NUMBERS = {"train": 0, "val": 1}
# Things that stand are turned little; things in the air or in the hand are turned more.
MAX_TURN = {"butterfly": 40, "fish": 28, "umbrella": 35, "mushroom": 18}


@dataclass(frozen=True)
class DrawnObject:
    """One object of a scene; `corners` are xmin, ymin, xmax, ymax, 1-based and inclusive, as in VOC files.

    `actions` are names and flags of what a person does.
    """

    name: str
    corners: tuple[int, int, int, int]
    difficult: bool
    truncated: bool
    occluded: bool
    actions: tuple[tuple[str, bool], ...] = ()


def draw_background(size_wh: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A soft room, meadow, sea, dusk, tablecloth or plain wall, in paled colours of the palette."""
    width, height = size_wh[0] * 2, size_wh[1] * 2  # halved at the end, which smooths all edges
    pale = [mix(PALETTE[i], (250, 244, 234), rng.uniform(0.3, 0.6)) for i in rng.permutation(len(PALETTE))]
    ramp = np.linspace(0, 1, height)[:, None, None]
    sky = np.asarray(pale[0]) * (1 - ramp) + np.asarray(pale[1]) * ramp
    picture = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    draw, u = ImageDraw.Draw(picture), rng.uniform
    kind = rng.choice(["room", "meadow", "sea", "dusk", "cloth", "bokeh"])
    x = np.linspace(0, width, 60)
    if kind in ("meadow", "dusk"):
        if kind == "dusk":
            radius = u(0.08, 0.16) * height
            draw.polygon([tuple(p) for p in ellipse(u(0.2, 0.8) * width, u(0.2, 0.45) * height, radius)], fill=pale[5])
        for i, level in enumerate(np.sort(u(0.45, 0.9, 3))):
            ridge = level * height + 0.06 * height * np.sin(x / width * u(3, 8) + u(0, 6))
            draw.polygon([(0, height), *zip(x, ridge, strict=True), (width, height)], fill=pale[2 + i])
    elif kind == "sea":
        shore = u(0.35, 0.6)
        for i, level in enumerate(np.linspace(shore, 0.95, 5)):
            crest = level * height + 0.012 * height * np.sin(x / width * u(20, 40) + u(0, 6))
            colour = mix(pale[2], pale[3], i / 4)
            draw.polygon([(0, height), *zip(x, crest, strict=True), (width, height)], fill=colour)
    elif kind == "room":
        floor, stripe = u(0.62, 0.82) * height, u(0.06, 0.12) * width
        for left in np.arange(0, width, 2 * stripe):
            draw.rectangle((left, 0, left + stripe, floor), fill=mix(pale[0], pale[1], 0.75))
        draw.rectangle((0, floor, width, height), fill=pale[2])
        draw.rectangle((0, floor - 0.02 * height, width, floor), fill=pale[3])
    elif kind == "cloth":
        step = u(0.1, 0.2) * height
        for i in range(int(width / step) + 1):
            for j in range(int(height / step) + 1):
                if (i + j) % 2:
                    draw.rectangle(
                        (i * step, j * step, (i + 1) * step, (j + 1) * step), fill=mix(pale[0], pale[2], 0.45)
                    )
    else:
        for _ in range(14):
            disc = ellipse(u(0, width), u(0, height), u(0.05, 0.2) * height)
            draw.polygon([tuple(p) for p in disc], fill=mix(pale[0], pale[int(rng.integers(1, 5))], 0.4))
    picture = picture.reduce(2)
    return picture.filter(ImageFilter.GaussianBlur(6)) if kind == "bokeh" else picture


def drop_shadow(picture: Image.Image, tile: Image.Image, x: int, y: int) -> None:
    """A soft shadow under a cut-out that is about to be glued at (x, y)."""
    pad, depth = 8, max(2, round(min(tile.size) * 0.03))
    shadow = Image.new("L", (tile.width + 2 * pad, tile.height + 2 * pad))
    shadow.paste(tile.getchannel("A").point(lambda a: a * 0.38), (pad, pad))
    shadow = shadow.filter(ImageFilter.BoxBlur(min(depth, 4)))
    picture.paste((40, 36, 52), (x - pad + depth // 2, y - pad + depth), shadow)


class _Scene:
    """A picture in the making, and for each object which of its pixels are still seen."""

    def __init__(self, size_wh: tuple[int, int], rng: np.random.Generator) -> None:
        self.size_wh, self.rng = size_wh, rng
        self.picture = draw_background(size_wh, rng)
        self.names: list[str] = []
        self.tiles: list[tuple[tuple[int, int, int, int], float]] = []  # corners, share of the area inside
        self.areas: list[int] = []
        # Which object is on top at each pixel: its number, or -1 for the ground and for clutter.
        self.top = np.full(size_wh[::-1], -1, np.int16)

    def place(self, tile: Image.Image, name: str | None) -> None:
        """Glue a cut-out somewhere, with a soft shadow; `name` is None for clutter."""
        solid = np.asarray(tile.getchannel("A")) > 127
        x, y = self._find_place(solid, crowding=self.rng.choice([0.1, 0.3, 1.0], p=[0.5, 0.3, 0.2]))
        drop_shadow(self.picture, tile, x, y)
        self.picture.paste(tile, (x, y), tile)
        part, window = self._overlap(solid, x, y)
        if name is None:
            self.top[window][part] = -1
            return
        self.top[window][part] = len(self.names)
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        x0, y0 = window[1].start, window[0].start
        left, top = int(x0 + columns[0] + 1), int(y0 + rows[0] + 1)
        right, bottom = int(x0 + columns[-1] + 1), int(y0 + rows[-1] + 1)
        self.names.append(name)
        self.tiles.append(((left, top, right, bottom), part.sum() / solid.sum()))
        self.areas.append(int(part.sum()))

    def _overlap(self, solid: np.ndarray, x: int, y: int) -> tuple[np.ndarray, tuple[slice, slice]]:
        """The part of a mask at (x, y) that is inside of the picture, and where it lies there."""
        width, height = self.size_wh
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + solid.shape[1], width), min(y + solid.shape[0], height)
        return solid[y0 - y : y1 - y, x0 - x : x1 - x], (slice(y0, y1), slice(x0, x1))

    def _find_place(self, solid: np.ndarray, crowding: float) -> tuple[int, int]:
        """A place that covers at most `crowding` of what it lies on, or the last of some tries."""
        (width, height), (tall, wide) = self.size_wh, solid.shape
        bleed = self.rng.choice([0.0, 0.45], p=[0.75, 0.25])  # one in four may be cut by the border
        # The middle is always inside, so that there is a place even if all tries are cut too much.
        place = ((width - wide) // 2, (height - tall) // 2)
        for _ in range(12):
            x = round(self.rng.uniform(-bleed * wide, width - wide + bleed * wide))
            y = round(self.rng.uniform(-bleed * tall, height - tall + bleed * tall))
            part, window = self._overlap(solid, x, y)
            if part.sum() < LEAST_INSIDE * solid.sum():
                continue
            place = x, y
            covered = self.top[window][part]
            if (covered >= 0).mean() <= crowding:
                return place
        return place

    def objects(self) -> list[DrawnObject]:
        """All objects of which enough is seen, in the order in which they were placed."""
        found = []
        for number, (name, (corners, inside), area) in enumerate(zip(self.names, self.tiles, self.areas, strict=True)):
            hidden = 1 - (self.top == number).sum() / area
            if hidden > LEFT_OUT_HIDDEN:
                continue
            small = (corners[2] - corners[0] + 1) * (corners[3] - corners[1] + 1) < DIFFICULT_PX**2
            found.append(
                DrawnObject(
                    name, corners, bool(hidden > DIFFICULT_HIDDEN or small), bool(inside < 0.95), bool(hidden > 0.05)
                )
            )
        return found


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, list[DrawnObject]]:
    """Draw one scene.

    Returns
    -------
    picture : RGB image, 281 to 500 pixels a side
    objects : at least one; boxes cover the seen and the covered extent, cut at the picture's border
    """
    while True:
        size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]
        scene = _Scene(size_wh, rng)
        n_objects = int(rng.choice(6, p=COUNT_SHARES)) + 1
        names = [CLASSES[i] for i in rng.integers(len(CLASSES), size=n_objects)]
        largest = LARGEST_SHARE * min(size_wh)
        sizes = np.exp(rng.uniform(np.log(SMALLEST_PX), np.log(largest), n_objects))
        sizes[0] = rng.uniform(0.45, 1.0) * largest  # each scene has something to look at
        clutter = np.exp(rng.uniform(np.log(20), np.log(largest * 0.6), int(rng.integers(2, 7))))
        jobs = [*zip(names, sizes, strict=True), *((None, size) for size in clutter)]
        # Large ones first, more or less: a small thing in front hides little of a large one.
        jobs.sort(key=lambda job: -job[1] * rng.uniform(0.6, 1.6))
        for name, size_px in jobs:
            canvas = Canvas(size_px, rng, 45 if name is None else MAX_TURN.get(name, 12))
            (draw_clutter if name is None else CLASS_DRAWERS[name])(canvas)
            scene.place(canvas.finished(), name)
        objects = scene.objects()
        if objects:
            return scene.picture, objects


def annotation_xml(picture_id: str, size_wh: tuple[int, int], objects: list[DrawnObject]) -> str:
    """The devkit's XML of a picture."""
    lines = [
        "<annotation>",
        f"  <filename>{escape(picture_id)}.jpg</filename>",
        f"  <size><width>{size_wh[0]}</width><height>{size_wh[1]}</height><depth>3</depth></size>",
    ]
    for item in objects:
        corners = "".join(
            f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), item.corners, strict=True)
        )
        flags = "".join(f"<{key}>{int(getattr(item, key))}</{key}>" for key in ("truncated", "occluded", "difficult"))
        done = "".join(f"<{escape(name)}>{int(flag)}</{escape(name)}>" for name, flag in item.actions)
        flags += f"<actions>{done}</actions>" if done else ""
        lines.append(f"  <object><name>{escape(item.name)}</name>{flags}<bndbox>{corners}</bndbox></object>")
    return "\n".join([*lines, "</annotation>", ""])


def _draw_picture(folder: Path, picture_id: str, rng: np.random.Generator) -> None:
    picture, objects = draw_scene(rng)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=JPEG_QUALITY)
    write_atomic(folder / "JPEGImages" / f"{picture_id}.jpg", stream.getvalue())
    xml = annotation_xml(picture_id, picture.size, objects)
    write_atomic(folder / "Annotations" / f"{picture_id}.xml", xml.encode())


def draw_demo(folder: Path, n_train: int, n_val: int, seed: int) -> None:
    """Draw the demo dataset into `folder`; pictures that are there already are kept.

    A scene depends on seed, split and its number alone, so going on after a stop, or asking for more
    scenes, gives what one run would have given. Id lists are written last.

    Raises
    ------
    DatasetError
        `folder` holds scenes of another seed or of another version of the drawing code.
    """
    counts = {"train": n_train, "val": n_val}
    ids = draw_pictures(Path(folder), counts, {"seed": seed, "drawing": DRAWING}, _draw_picture)
    for split in counts:
        write_atomic(Path(folder) / "ImageSets" / "Main" / f"{split}.txt", ("\n".join(ids[split]) + "\n").encode())


def draw_pictures(
    folder: Path,
    counts: dict[str, int],
    recipe: dict[str, int],
    draw_picture: Callable[[Path, str, np.random.Generator], None],
) -> dict[str, list[str]]:
    """Draw those pictures that are missing, each from a generator of its own; ids of each split.

    Parameters
    ----------
    recipe : ``seed`` and ``drawing``, kept beside the pictures
    draw_picture : writes picture and annotation of an id

    Raises
    ------
    DatasetError
        As `draw_demo`.
    """
    if min(counts.values()) < 1:
        wanted = ", ".join(f"{split} {n}" for split, n in counts.items())
        raise DatasetError(f"demo scenes: at least 1 a split, got {wanted}")
    recipe_path = folder / "drawn.json"
    if recipe_path.is_file():
        there = read_json(recipe_path)
        if there != recipe:
            raise DatasetError(
                f"{folder}: holds scenes drawn with {there}, asked for {recipe}\n"
                "remove the folder, or draw into another one"
            )
    else:
        write_json(recipe_path, recipe)
    ids = {split: [f"{split}_{number:04d}" for number in range(1, n + 1)] for split, n in counts.items()}
    jobs = [(split, number, i) for split in counts for number, i in enumerate(ids[split], start=1)]
    missing = [
        job
        for job in jobs
        if not all((folder / name).is_file() for name in (f"JPEGImages/{job[2]}.jpg", f"Annotations/{job[2]}.xml"))
    ]
    for split, number, i in track(missing, "draw demo scenes", len(missing), "scenes"):
        draw_picture(folder, i, np.random.default_rng([recipe["seed"], SPLIT_NUMBERS[split], number]))
    return ids
