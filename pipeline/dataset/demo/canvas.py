"""Canvas, palette and outlines for the demo's paper cut-outs.

A shape is drawn in its own coordinates, x to the right and y down, both about -1..1; the `Canvas`
turns, mirrors, scales and smooths it. All shapes take their colours from one palette.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw

T = TypeVar("T")
Colour = tuple[int, int, int]
Points = np.ndarray  # float, of shape (n, 2)
Outline = Points | Sequence[np.ndarray | tuple[float, float]]

PALETTE: tuple[Colour, ...] = (
    (246, 231, 203), (228, 114, 91), (227, 176, 75), (47, 127, 134), (62, 84, 120), (143, 176, 140), (156, 198, 214),
    (217, 154, 165), (120, 84, 122), (176, 82, 68), (216, 191, 152), (110, 127, 141), (63, 107, 85), (240, 244, 240),
)  # fmt: skip
LIGHTS: tuple[Colour, ...] = ((251, 245, 233), (246, 231, 203), (226, 238, 240))
INKS: tuple[Colour, ...] = ((38, 46, 66), (58, 40, 58), (30, 56, 52), (70, 42, 36))

SUPERSAMPLE = 2
# Room around -1..1 for turned corners, antennae and outlines.
MARGIN = 1.5


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` with `share` of `b` in it."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def brightness(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def ellipse(cx: float, cy: float, rx: float, ry: float | None = None, start: float = 0, end: float = 360) -> Points:
    """Points of an ellipse, or of an arc of it; degrees run clockwise from the right."""
    angle = np.deg2rad(np.linspace(start, end, 44))
    return np.stack([cx + rx * np.cos(angle), cy + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def smooth(points: Outline, closed: bool = True) -> Points:
    """A Catmull-Rom curve through `points`."""
    p = np.asarray(points, float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0, 1, 9)[:, None]
    pieces = [
        b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.concatenate(pieces)


def mirrored(points: Points) -> Points:
    return points * (-1, 1)


def symmetric(right_half: Outline) -> Points:
    """An outline from its right half: down the right side, then the same up the left side."""
    half = np.asarray(right_half, float)
    return np.vstack([half, mirrored(half[half[:, 0] > 0])[::-1]])


class Canvas:
    """A transparent tile on which one object is drawn, with the colours and the style of that object.

    Parameters
    ----------
    size_px : what -1..1 becomes in the finished picture
    rng : source of colours, patterns and proportions
    max_turn : largest rotation, in degrees, either way
    """

    def __init__(self, size_px: float, rng: np.random.Generator, max_turn: float = 14) -> None:
        self.rng = rng
        self.main, self.accent = (PALETTE[i] for i in rng.choice(len(PALETTE), 2, replace=False))
        # Parts must stand out from each other, so the second colour is far from the first in brightness.
        apart = [c for c in PALETTE if abs(brightness(c) - brightness(self.main)) > 45]
        self.second = self.pick(apart)
        self.light, self.ink = self.pick(LIGHTS), self.pick(INKS)
        self.edge = mix(self.main, self.ink, rng.uniform(0.55, 1.0))
        self.scale = size_px / 2 * SUPERSAMPLE
        self.edge_px = max(1.5, self.scale * rng.choice([0.0, 0.02, 0.035]))
        turn = np.deg2rad(rng.uniform(-max_turn, max_turn))
        flip = -1 if rng.random() < 0.5 else 1
        cos, sin = np.cos(turn), np.sin(turn)
        self._matrix = self.scale * np.array([[flip * cos, flip * sin], [-sin, cos]])
        side = int(np.ceil(2 * MARGIN * self.scale / SUPERSAMPLE)) * SUPERSAMPLE
        self._centre = side / 2
        self._tile = Image.new("RGBA", (side, side))
        self._draw = ImageDraw.Draw(self._tile)

    def pick(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pattern(self) -> str:
        return self.pick(["plain", "plain", "bands", "bars", "dots", "slant"])

    def _to_tile(self, points: Outline) -> list[tuple[float, float]]:
        return [tuple(p) for p in (np.asarray(points, float) @ self._matrix + self._centre).tolist()]

    def fill(self, points: Outline, colour: Colour, pattern: str = "plain", marks: Colour | None = None) -> None:
        """Fill an outline, with a pattern of `marks` (the second colour unless told), and draw its edge."""
        corners = self._to_tile(points)
        self._draw.polygon(corners, fill=colour)
        if pattern != "plain":
            self._fill_pattern(points, corners, pattern, marks or self.second)
        self._draw.line([*corners, corners[0], corners[1]], fill=self.edge, width=round(self.edge_px), joint="curve")

    def _fill_pattern(self, points: Outline, corners: list, pattern: str, colour: Colour) -> None:
        corner_points = np.asarray(points)
        low, high = np.min(corner_points, axis=0), np.max(corner_points, axis=0)
        (x0, y0), (x1, y1) = low, high
        n = int(self.rng.integers(3, 6))
        if pattern == "bands":
            pieces = [box(x0, y0 + (y1 - y0) * (i + 0.3) / n, x1, y0 + (y1 - y0) * (i + 0.75) / n) for i in range(n)]
        elif pattern == "bars":
            pieces = [box(x0 + (x1 - x0) * (i + 0.3) / n, y0, x0 + (x1 - x0) * (i + 0.75) / n, y1) for i in range(n)]
        elif pattern == "slant":
            step, rise = (x1 - x0 + y1 - y0) / (n + 2), y1 - y0
            starts = [x0 - rise + i * step for i in range(n + 2)]
            pieces = [
                np.array([(s, y1), (s + step / 2, y1), (s + step / 2 + rise, y0), (s + rise, y0)]) for s in starts
            ]
        else:
            step = max(x1 - x0, y1 - y0) / (n + 0.5)
            rows = range(int((y1 - y0) / step) + 2)
            columns = range(int((x1 - x0) / step) + 2)
            pieces = [
                ellipse(x0 + (i + 0.5 * (j % 2)) * step, y0 + (j + 0.4) * step, step * 0.27)
                for j in rows
                for i in columns
            ]
        inside, drawn = Image.new("L", self._tile.size), Image.new("L", self._tile.size)
        ImageDraw.Draw(inside).polygon(corners, fill=255)
        pen = ImageDraw.Draw(drawn)
        for piece in pieces:
            pen.polygon(self._to_tile(piece), fill=255)
        self._tile.paste(colour, mask=ImageChops.darker(inside, drawn))

    def stroke(self, points: Outline, width: float, colour: Colour) -> None:
        """A line with round joints and ends; `width` in the object's coordinates."""
        path, radius = self._to_tile(points), max(width * self.scale, 2.0) / 2
        # Pillow's own wide lines have notches at the joints of curves; quads and discs have none.
        for (x0, y0), (x1, y1) in zip(path, path[1:], strict=False):
            length = max(float(np.hypot(x1 - x0, y1 - y0)), 1e-6)
            dx, dy = (y1 - y0) / length * radius, (x0 - x1) / length * radius
            quad = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
            self._draw.polygon(quad, fill=colour)
        for x, y in path:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def finished(self) -> Image.Image:
        """The object as RGBA, smoothed, lit from above, cut to its own extent."""
        tile = self._tile.reduce(SUPERSAMPLE)
        tile = tile.crop(tile.getchannel("A").getbbox())
        pixels = np.asarray(tile).copy()
        light = np.linspace(1.08, 0.84, tile.height)[:, None] + np.linspace(0.04, -0.04, tile.width)
        pixels[..., :3] = np.clip(pixels[..., :3] * light[..., None], 0, 255)
        return Image.fromarray(pixels)
