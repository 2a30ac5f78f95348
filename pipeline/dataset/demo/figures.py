"""Paper people for the drawn action set: poses, and what they hold, ride or sit at.

A figure stands in the coordinates of `Canvas`, about -1..1, x forward and y down; its hip is at (0, 0).
Limbs are given by angles in degrees, 0 hanging down, positive forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from pipeline.dataset.demo.canvas import SUPERSAMPLE, Canvas, Colour, Outline, ellipse, mix, smooth

SKINS: tuple[Colour, ...] = ((241, 205, 176), (222, 174, 132), (176, 122, 84), (121, 80, 55), (82, 55, 40))
HAIRS: tuple[Colour, ...] = ((38, 30, 28), (84, 54, 36), (150, 98, 52), (212, 172, 96), (120, 118, 120))
TORSO, NECK, HEAD = 0.52, 0.07, 0.155
THIGH, SHIN, FOOT = 0.4, 0.4, 0.12
UPPER_ARM, FOREARM = 0.27, 0.27


def reach(start: np.ndarray, degrees: float, length: float) -> np.ndarray:
    """The end of a limb."""
    angle = np.deg2rad(degrees)
    return start + length * np.array([np.sin(angle), np.cos(angle)])


def elbow_between(shoulder: np.ndarray, hand: np.ndarray) -> np.ndarray:
    """Where an elbow hangs if the hand is there; an arm that is too short is stretched."""
    across, apart = hand - shoulder, float(np.hypot(*(hand - shoulder)))
    half = min(apart / 2, UPPER_ARM)
    out = np.sqrt(max(UPPER_ARM**2 - half**2, 0.0))
    normal = np.array([-across[1], across[0]]) / max(apart, 1e-6)
    return shoulder + across / 2 + normal * out * (1 if normal[1] > 0 else -1)


class FigureCanvas(Canvas):
    """A canvas that remembers how far the person itself reaches, without what is ridden or sat on."""

    def __init__(self, size_px: float, rng: np.random.Generator) -> None:
        super().__init__(size_px, rng, max_turn=5)
        self.skin, self.hair = self.pick(SKINS), self.pick(HAIRS)
        self.shirt, self.trousers = self.main, self.pick([self.second, self.ink, self.accent])
        self._of_person = False
        self._reached: list[tuple[float, float, float]] = []  # x, y and radius on the tile

    @contextmanager
    def person(self) -> Iterator[None]:
        """What is drawn in this block is part of the person."""
        self._of_person = True
        yield
        self._of_person = False

    def fill(self, points: Outline, colour: Colour, pattern: str = "plain", marks: Colour | None = None) -> None:
        super().fill(points, colour, pattern, marks)
        self._reach(points, self.edge_px / 2)

    def stroke(self, points: Outline, width: float, colour: Colour) -> None:
        super().stroke(points, width, colour)
        self._reach(points, width * self.scale / 2)

    def _reach(self, points: Outline, radius: float) -> None:
        if self._of_person:
            self._reached += [(x, y, radius) for x, y in self._to_tile(points)]

    def finished_with_box(self) -> tuple[Image.Image, tuple[float, float, float, float]]:
        """The figure as `finished` gives it, and the person's box on that tile: x0, y0, x1, y1."""
        drawn = self._tile.reduce(SUPERSAMPLE).getchannel("A").getbbox()
        assert drawn is not None
        left, top, *_ = drawn
        x, y, r = np.array(self._reached).T
        low = np.array([(x - r).min(), (y - r).min()]) / SUPERSAMPLE - (left, top)
        high = np.array([(x + r).max(), (y + r).max()]) / SUPERSAMPLE - (left, top)
        tile = self.finished()
        x0, y0 = np.maximum(low, 0)
        x1, y1 = np.minimum(high, tile.size)
        return tile, (float(x0), float(y0), float(x1), float(y1))


Pair = tuple[float, float]
Arm = Pair | np.ndarray  # angles of upper arm and forearm, or the place of the hand


class Figure:
    """A person; near and far limbs are drawn in front of and behind the body, with things between.

    Parameters
    ----------
    hip : where it is
    lean : degrees by which the body leans forward
    """

    def __init__(self, c: FigureCanvas, hip: Pair = (0.0, 0.0), lean: float = 0.0) -> None:
        self.c, self.hip, self.lean = c, np.asarray(hip, float), lean
        self.shoulder = reach(self.hip, 180 - lean, TORSO)
        self.head = reach(self.shoulder, 180 - lean * 0.5, NECK + HEAD)
        self.dark = [mix(colour, c.ink, 0.35) for colour in (c.shirt, c.trousers, c.skin)]

    def leg(self, angles: Pair, far: bool = False) -> np.ndarray:
        """Draw a leg; where its ankle is."""
        cloth = self.dark[1] if far else self.c.trousers
        knee = reach(self.hip, angles[0], THIGH)
        ankle = reach(knee, angles[1], SHIN)
        toe = reach(ankle, angles[1] + 78, FOOT)
        with self.c.person():
            self.c.stroke([self.hip, knee, ankle], 0.145, cloth)
            self.c.stroke([ankle, toe], 0.1, self.c.ink)
        return ankle

    def arm(self, where: Arm, far: bool = False) -> np.ndarray:
        """Draw an arm by its angles, or to a hand's place; where the hand is."""
        sleeve, skin = (self.dark[0], self.dark[2]) if far else (mix(self.c.shirt, self.c.ink, 0.18), self.c.skin)
        start = self.shoulder + reach(np.zeros(2), -self.lean, 0.05)
        if isinstance(where, np.ndarray):
            elbow, hand = elbow_between(start, where), where
        else:
            elbow = reach(start, where[0], UPPER_ARM)
            hand = reach(elbow, where[1], FOREARM)
        with self.c.person():
            self.c.stroke([start, elbow], 0.115, sleeve)
            self.c.stroke([elbow, hand], 0.085, skin)
        return hand

    def body(self) -> None:
        with self.c.person():
            self.c.stroke([self.shoulder, self.head], 0.1, self.c.skin)
            top, low = reach(self.hip, 180 - self.lean, TORSO - 0.07), reach(self.hip, 180 - self.lean, 0.04)
            self.c.stroke([low, top], 0.27, self.c.shirt)
            x, y = self.head
            self.c.stroke([(x - 0.03, y - 0.03), (x - 0.03, y - 0.02)], 2 * HEAD + 0.02, self.c.hair)
            self.c.stroke([(x + 0.03, y + 0.02), (x + 0.03, y + 0.03)], 2 * HEAD - 0.05, self.c.skin)


def stand(c: FigureCanvas) -> Figure:
    """A person that only stands: legs and far arm are drawn."""
    u = c.rng.uniform
    figure = Figure(c, lean=u(-3, 3))
    figure.leg((u(2, 7), u(0, 4)), far=True)
    figure.leg((u(-7, -2), u(-6, -1)))
    return figure


def sit(c: FigureCanvas, lean: float) -> Figure:
    """A person on a chair or a stool."""
    u = c.rng.uniform
    wood = c.pick([c.second, c.accent, c.ink])
    seat = 0.11
    c.stroke([(-0.2, seat), (0.22, seat)], 0.09, wood)
    for x in (-0.18, 0.18):
        c.stroke([(x, seat), (x + u(-0.04, 0.04), 0.52)], 0.06, wood)
    if c.chance(0.6):
        c.stroke([(-0.21, seat), (-0.27, -0.4)], 0.07, wood)
    figure = Figure(c, lean=lean)
    figure.leg((u(78, 88), u(-10, 8)), far=True)
    figure.leg((u(80, 92), u(-5, 15)))
    return figure


def draw_walking(c: FigureCanvas) -> None:
    u = c.rng.uniform
    stride = u(18, 28)
    figure = Figure(c, lean=u(0, 6))
    figure.arm((stride, stride + u(10, 25)), far=True)
    figure.leg((-stride, -stride - u(8, 20)), far=True)
    figure.leg((stride, stride - u(2, 10)))
    figure.body()
    figure.arm((-stride * 0.9, -stride * 0.5 + u(0, 15)))


def draw_running(c: FigureCanvas) -> None:
    u = c.rng.uniform
    lift = u(58, 80)
    figure = Figure(c, lean=u(14, 26))
    figure.arm((u(40, 60), u(125, 150)), far=True)
    figure.leg((-u(20, 38), -u(85, 115)), far=True)
    figure.leg((lift, lift - u(70, 95)))
    figure.body()
    figure.arm((-u(50, 70), u(20, 45)))


def draw_jumping(c: FigureCanvas) -> None:
    u = c.rng.uniform
    figure = Figure(c, lean=u(-8, 6))
    figure.arm((u(150, 170), u(155, 180)), far=True)
    spread = u(35, 60)
    bent = u(20, 70)
    figure.leg((-spread, -spread - bent), far=True)
    figure.leg((spread, spread - bent))
    figure.body()
    figure.arm((-u(150, 170), -u(150, 178)))
    # The ground far below, in its own shadow.
    c.fill(ellipse(0, 0.98, 0.4, 0.045), mix(c.ink, c.light, 0.35))


def draw_riding_bike(c: FigureCanvas) -> None:
    u = c.rng.uniform
    radius, spread, hub = u(0.33, 0.38), u(0.5, 0.56), 0.62
    for x in (-spread, spread):
        for angle in np.linspace(0, np.pi, 4, endpoint=False):
            spoke = radius * np.array([np.cos(angle), np.sin(angle)])
            c.stroke([(x, hub) - spoke, (x, hub) + spoke], 0.018, c.light)
        c.stroke(ellipse(x, hub, radius), 0.06, c.ink)
    crank, seat, bars = np.array((-0.02, hub)), np.array((-0.14, 0.12)), np.array((0.36, -0.02))
    figure = Figure(c, hip=(-0.14, 0.04), lean=u(20, 38))
    pedal = u(0, 360)
    figure.leg((_to_pedal(figure.hip, reach(crank, pedal + 180, 0.13))), far=True)
    frame = c.accent
    for a, b in (((-spread, hub), crank), ((-spread, hub), seat), (crank, seat), (crank, bars), (seat, bars)):
        c.stroke([a, b], 0.05, frame)
    c.stroke([(spread, hub), bars, bars - (0.03, 0.1)], 0.05, frame)
    c.stroke([bars - (0.07, 0.1), bars + (0.1, -0.1)], 0.055, c.ink)
    c.stroke([seat - (0.1, 0.02), seat + (0.08, -0.02)], 0.07, c.ink)
    figure.arm(bars - (0.0, 0.1), far=True)
    figure.leg(_to_pedal(figure.hip, reach(crank, pedal, 0.13)))
    figure.body()
    figure.arm(bars - (0.02, 0.1))


def _to_pedal(hip: np.ndarray, pedal: np.ndarray) -> Pair:
    """Angles of thigh and shin of a leg whose ankle is on a pedal, knee forward."""
    across = pedal - hip
    apart = min(float(np.hypot(*across)), THIGH + SHIN - 1e-3)
    down = np.rad2deg(np.arctan2(across[0], across[1]))
    bend = np.rad2deg(np.arccos(apart / (2 * THIGH)))
    return down + bend, down - bend


def draw_riding_horse(c: FigureCanvas) -> None:
    u = c.rng.uniform
    coat = c.pick([(122, 78, 48), (84, 56, 42), (186, 152, 112), (224, 216, 204), (58, 50, 50)])
    dark = mix(coat, c.ink, 0.45)
    hip, chest, low = np.array((-0.5, 0.3)), np.array((0.42, 0.28)), 0.95
    swing = u(0.03, 0.16)
    c.stroke(smooth([hip - (0.1, 0.08), hip - (0.28, -0.05), hip - (0.32, -0.32)], closed=False), 0.1, dark)
    for x, out in ((-0.42, swing), (0.38, -swing)):
        c.stroke([(x, 0.4), (x + out, 0.7), (x + out * 1.5, low)], 0.1, dark)
    figure = Figure(c, hip=(-0.02, 0.02), lean=u(0, 14))
    c.stroke(smooth([hip, (0.0, 0.33), chest], closed=False), 0.4, coat)
    for x, out in ((-0.55, -swing), (0.45, swing)):
        c.stroke([(x, 0.4), (x + out, 0.7), (x + out * 1.3, low)], 0.115, coat)
    head = np.array((0.78, u(-0.32, -0.18)))
    c.stroke([chest + (0.05, -0.05), head], 0.23, coat)
    c.stroke([head - (0.02, 0.02), head + (0.2, 0.14)], 0.16, coat)
    c.fill([head - (0.06, 0.06), head - (0.02, 0.22), head + (0.05, -0.08)], coat)
    c.stroke([chest + (-0.08, -0.12), head - (0.11, 0.02)], 0.08, dark)
    rein = head + (0.1, 0.1)
    hand = figure.arm((u(30, 45), u(60, 85)), far=True)
    c.stroke([hand, rein], 0.025, c.ink)
    figure.leg((u(35, 50), u(-15, 5)))
    figure.body()
    hand = figure.arm((u(20, 40), u(60, 85)))
    c.stroke([hand, rein], 0.025, c.ink)


def _hold_book(c: FigureCanvas, figure: Figure) -> None:
    """An open book before the face, held by both hands."""
    u = c.rng.uniform
    spine = figure.shoulder + (u(0.3, 0.36), u(0.0, 0.08))
    tilt = np.array((u(0.1, 0.15), -u(0.2, 0.24)))
    figure.arm(spine + (-0.02, 0.05), far=True)
    cover = c.pick([c.accent, c.second])
    page = (250, 247, 238)
    out = np.array((-0.19, 0.02))
    c.fill([spine, spine + tilt, spine + tilt + (0.1, 0.04), spine + (0.1, 0.05)], mix(cover, c.ink, 0.3))
    c.fill([spine, spine + tilt, spine + tilt + out, spine + out], page, "bands", (150, 150, 156))
    c.stroke([spine + out, spine, spine + tilt], 0.04, cover)
    figure.body()
    figure.arm(spine + out * 0.5 + (0, 0.03))


def draw_reading(c: FigureCanvas) -> None:
    figure = sit(c, lean=c.rng.uniform(-8, 6)) if c.chance(0.7) else stand(c)
    _hold_book(c, figure)


def draw_walking_and_reading(c: FigureCanvas) -> None:
    """Two actions at once."""
    u = c.rng.uniform
    stride = u(18, 28)
    figure = Figure(c, lean=u(0, 5))
    figure.leg((-stride, -stride - u(8, 20)), far=True)
    figure.leg((stride, stride - u(2, 10)))
    _hold_book(c, figure)


def draw_using_computer(c: FigureCanvas) -> None:
    u = c.rng.uniform
    figure = sit(c, lean=u(0, 10))
    desk, screen = -0.06, u(0.62, 0.72)
    wood = mix(c.second, c.ink, 0.3)
    c.stroke([(0.36, desk), (0.98, desk)], 0.06, wood)
    for x in (0.46, 0.92):
        c.stroke([(x, desk), (x, 0.52)], 0.055, wood)
    figure.arm(np.array((0.46, desk - 0.06)), far=True)
    c.stroke([(0.4, desk - 0.05), (0.62, desk - 0.05)], 0.045, c.light)
    tall = u(0.36, 0.44)
    c.stroke([(screen + 0.06, desk - 0.03), (screen + 0.1, desk - 0.12)], 0.05, c.ink)
    foot, head = desk - 0.1, desk - 0.1 - tall
    c.fill([(screen, foot), (screen + 0.05, head), (screen + 0.2, head), (screen + 0.15, foot)], c.ink)
    glow = c.pick([(150, 205, 230), (196, 226, 206), (226, 232, 240)])
    c.stroke([(screen + 0.01, desk - 0.13), (screen + 0.055, desk - 0.07 - tall)], 0.05, glow)
    figure.body()
    figure.arm(np.array((0.43, desk - 0.07)))


def _disc(centre: np.ndarray, radius: float) -> np.ndarray:
    return ellipse(centre[0], centre[1], radius)


def draw_playing_instrument(c: FigureCanvas) -> None:
    """A guitar across the body, or a trumpet."""
    u = c.rng.uniform
    figure = sit(c, lean=u(-4, 6)) if c.chance(0.4) else stand(c)
    if c.chance(0.25):
        mouth = figure.head + (0.15, 0.04)
        brass, end = (222, 178, 66), mouth + (0.42, u(-0.1, 0.04))
        figure.arm(mouth + (0.2, 0.05), far=True)
        c.stroke([mouth, end], 0.045, brass)
        c.stroke([mouth + (0.1, 0.06), mouth + (0.3, 0.06)], 0.05, brass)
        c.fill([end - (0, 0.03), end + (0.14, -0.13), end + (0.14, 0.13), end + (0, 0.03)], brass)
        figure.body()
        figure.arm(mouth + (0.16, 0.09))
        return
    wood = c.pick([(196, 120, 58), (150, 74, 42), (222, 178, 112), c.accent])
    middle = figure.hip + (0.08, -u(0.1, 0.2))
    neck = np.array((0.62, -u(0.2, 0.34)))
    figure.body()
    figure.arm(middle + neck * 0.85, far=True)
    along = neck / np.hypot(*neck)
    c.stroke([middle, middle + neck], 0.06, mix(wood, c.ink, 0.55))
    c.stroke([middle + neck, middle + neck * 1.12], 0.09, c.ink)
    c.fill(_disc(middle - along * 0.12, 0.21), wood)
    c.fill(_disc(middle + along * 0.1, 0.15), wood)
    c.fill(_disc(middle + along * 0.02, 0.065), c.ink)
    figure.arm(middle + along * 0.02 + (0.0, 0.02))


def draw_other(c: FigureCanvas) -> None:
    """Nothing of the rest: standing about, waving, or sitting."""
    u, kind = c.rng.uniform, c.pick(["stand", "akimbo", "wave", "sit"])
    figure = sit(c, lean=u(-10, 2)) if kind == "sit" else stand(c)
    if kind == "sit":
        hands: tuple[Arm, Arm] = ((u(20, 35), u(50, 70)), (u(15, 30), u(45, 70)))
    elif kind == "akimbo":
        hands = ((u(45, 55), -u(45, 60)), (-u(45, 55), u(45, 60)))
    elif kind == "wave":
        hands = ((u(0, 8), u(0, 12)), (u(100, 130), u(160, 200)))
    else:
        hands = ((u(2, 10), u(4, 14)), (-u(2, 10), -u(0, 8)))
    figure.arm(hands[0], far=True)
    figure.body()
    figure.arm(hands[1])


ACTION_DRAWERS: dict[str, Callable[[FigureCanvas], None]] = {
    "jumping": draw_jumping, "playinginstrument": draw_playing_instrument, "reading": draw_reading,
    "ridingbike": draw_riding_bike, "ridinghorse": draw_riding_horse, "running": draw_running,
    "usingcomputer": draw_using_computer, "walking": draw_walking, "other": draw_other,
}  # fmt: skip
