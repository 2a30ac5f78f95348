"""The drawn action set: paper people who do things, laid out as the action task of the VOC devkit.

As `pipeline.dataset.demo.scenes`, with one to four persons a picture; a few of them do two things at once, some are
cut by the picture's border, and what they ride or sit on lies outside of their boxes.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.dataset.demo.canvas import Canvas
from pipeline.dataset.demo.figures import ACTION_DRAWERS, FigureCanvas, draw_walking_and_reading
from pipeline.dataset.demo.scenes import (
    JPEG_QUALITY,
    DrawnObject,
    annotation_xml,
    draw_background,
    draw_pictures,
    drop_shadow,
)
from pipeline.dataset.demo.shapes import draw_clutter
from pipeline.dataset.voc_xml import parse_objects
from pipeline.io.atomic import write_atomic

ACTIONS = tuple(ACTION_DRAWERS)
OTHER = "other"
DRAWING = 1
"""Raised when the same seed would give other scenes; kept beside the pictures."""

SIZES_WH = ((500, 375), (500, 375), (480, 320), (375, 500), (400, 400))
COUNT_SHARES = (0.4, 0.35, 0.17, 0.08)  # of scenes with 1 to 4 persons
FIGURE_SHARES = (0.35, 0.62)  # of the picture's short side, half of it for a crowd
BOTH_SHARE = 0.05  # of persons who walk and read
CUT_SHARE = 0.12  # of persons who may be cut by the border
MOST_COVERED = 0.2  # of a person's box by persons in front


def draw_scene(rng: np.random.Generator) -> tuple[np.ndarray, list[DrawnObject]]:
    """Draw one scene.

    Returns
    -------
    pixels : uint8 ndarray of shape (height, width, 3), RGB
    objects : one to four persons with their actions
    """
    size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]
    width, height = size_wh
    picture = draw_background(size_wh, rng)
    for _ in range(int(rng.integers(0, 4))):
        canvas = Canvas(rng.uniform(25, 90), rng, 40)
        draw_clutter(canvas)
        tile = canvas.finished()
        x, y = round(rng.uniform(0, width - tile.width)), round(rng.uniform(0, height - tile.height))
        drop_shadow(picture, tile, x, y)
        picture.paste(tile, (x, y), tile)
    n = int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)) + 1
    ground = rng.uniform(0.72, 0.92) * height
    persons: list[DrawnObject] = []
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(n):
        low, high = FIGURE_SHARES if n < 3 else (s * 0.75 for s in FIGURE_SHARES)
        # A figure is about 1.7 high where the canvas spans 2.
        canvas = FigureCanvas(rng.uniform(low, high) * min(size_wh) * 1.15, rng)
        names = _draw_figure(canvas, rng)
        tile, box = canvas.finished_with_box()
        place = _find_place(tile.size, box, size_wh, ground, taken, rng)
        if place is None:
            continue
        x, y = place
        drop_shadow(picture, tile, x, y)
        picture.paste(tile, (x, y), tile)
        there = (box[0] + x, box[1] + y, box[2] + x, box[3] + y)
        seen = (max(there[0], 0), max(there[1], 0), min(there[2], width), min(there[3], height))
        taken.append(seen)
        corners = (int(seen[0]) + 1, int(seen[1]) + 1, int(np.ceil(seen[2])), int(np.ceil(seen[3])))
        actions = tuple((name, name in names) for name in ACTIONS)
        persons.append(DrawnObject("person", corners, False, seen != there, False, actions))
    return np.asarray(picture), persons


def _draw_figure(canvas: FigureCanvas, rng: np.random.Generator) -> tuple[str, ...]:
    """Draw somebody; what they do."""
    if rng.random() < BOTH_SHARE:
        draw_walking_and_reading(canvas)
        return ("walking", "reading")
    name = ACTIONS[rng.integers(len(ACTIONS))]
    ACTION_DRAWERS[name](canvas)
    return (name,)


def _find_place(
    tile_wh: tuple[int, int],
    box: tuple[float, float, float, float],
    size_wh: tuple[int, int],
    ground: float,
    taken: list[tuple[float, float, float, float]],
    rng: np.random.Generator,
) -> tuple[int, int] | None:
    """A place near the ground where nobody is hidden much; None if there is none (never for the first person)."""
    (wide, tall), (width, height) = tile_wh, size_wh
    over = 0.4 if rng.random() < CUT_SHARE else 0.0
    for _ in range(25):
        x = rng.uniform(-over * wide, max(width - wide + over * wide, 1 - over * wide))
        y = min(ground + rng.uniform(-0.06, 0.06) * height, height - 2 + over * tall) - tall
        there = (x + box[0], y + box[1], x + box[2], y + box[3])
        if all(_covered(other, there) <= MOST_COVERED and _covered(there, other) <= MOST_COVERED for other in taken):
            return round(x), round(y)
    return None


def _covered(box: tuple[float, float, float, float], by: tuple[float, float, float, float]) -> float:
    """Share of a box that another one covers."""
    wide, tall = min(box[2], by[2]) - max(box[0], by[0]), min(box[3], by[3]) - max(box[1], by[1])
    return max(wide, 0) * max(tall, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _draw_picture(folder: Path, picture_id: str, rng: np.random.Generator) -> None:
    pixels, persons = draw_scene(rng)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY)
    write_atomic(folder / "JPEGImages" / f"{picture_id}.jpg", stream.getvalue())
    xml = annotation_xml(picture_id, (pixels.shape[1], pixels.shape[0]), persons)
    write_atomic(folder / "Annotations" / f"{picture_id}.xml", xml.encode())


def draw_demo(folder: Path, n_train: int, n_val: int, seed: int) -> None:
    """Draw the action set into `folder`; as `pipeline.dataset.demo.scenes.draw_demo`, which see."""
    counts = {"train": n_train, "val": n_val}
    ids = draw_pictures(Path(folder), counts, {"seed": seed, "drawing": DRAWING}, _draw_picture)
    lists = Path(folder) / "ImageSets" / "Action"
    for split, pictures in ids.items():
        lines: dict[str, list[str]] = {name: [] for name in ACTIONS if name != OTHER}
        for i in pictures:
            _, persons = parse_objects((Path(folder) / "Annotations" / f"{i}.xml").read_bytes())
            for number, person in enumerate(persons, start=1):
                for name in lines:
                    lines[name].append(f"{i} {number} {1 if (person.actions or {}).get(name) else -1}\n")
        # As in the devkit: no list for what is not scored, and the id list last.
        for name, content in lines.items():
            write_atomic(lists / f"{name}_{split}.txt", "".join(content).encode())
        write_atomic(lists / f"{split}.txt", "".join(f"{i}\n" for i in pictures).encode())
